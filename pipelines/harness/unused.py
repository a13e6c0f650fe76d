"""Settings that a run would not read, refused before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.processes import stop
from harness.settings import PresetSettings

#: Whether the flag is set, the flag, and the settings that nothing reads then.
Unused = tuple[bool, str, tuple[str, ...]]


def refuse_unused(
    recipe: str,
    settings: PresetSettings,
    presets: Mapping[str, PresetSettings],
    unused: Iterable[Unused],
) -> None:
    """Stop where a flag was given that would change nothing.

    A setting counts as given where it differs from the preset's. So ``--mix none`` makes a baseline
    of every preset.

    Args:
        recipe: Name of the recipe.
        settings: Settings of the run.
        presets: Settings by name of the preset, as of the command line.
        unused: Which flags leave which settings unread.
    """
    preset = presets.get(settings.preset, type(settings)())
    for is_set, cause, names in unused:
        for name in names if is_set else ():
            value, flag = getattr(settings, name), f"--{name.replace('_', '-')}"
            if value != getattr(preset, name):
                stop(
                    recipe,
                    f"`{name}` must be left out with `{cause}`, got {value!r}. The run would not "
                    f"read `{flag}`: leave it out, or change the other flag.",
                )
