"""Many small trainings, evaluated, and the page that is written of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import FileList, MixedTarget
from evaluation.image_lists import spread
from evaluation.result import Result
from evaluation.saved import Evaluation
from evaluation.subject import load_subject
from evaluation.tasks import TASKS, summary, task_rows
from harness.labels import relabelled
from harness.settings import parse
from runs import recipe


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return recipe("study")


@pytest.fixture(scope="module")
def data(study: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = study.generated(tmp_path_factory.mktemp("data"))
    return folder


def small(study: ModuleType, **settings: Any) -> Any:
    return study.Settings(
        **{"epochs": 2, "width": 4, "batch_size": 8, "max_images": 8, "seeds": 1, **settings}
    )


def test_labels_of_mixed_images_can_be_those_of_the_ablations() -> None:
    weight = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    label = torch.arange(8).reshape(4, 2)
    target = MixedTarget(label, weight)
    expected = {
        "shares": [0.75, 0.25, 0.5, 1.0],
        "larger": [1.0, 0.0, 1.0, 1.0],
        "halves": [0.5, 0.5, 0.5, 1.0],
        "swapped": [0.25, 0.75, 0.5, 1.0],
    }
    for kind, own in expected.items():
        changed = relabelled(target, kind)
        assert changed.label is label
        assert changed.weight[:, 0].tolist() == own
        assert changed.weight.sum(1).tolist() == [1.0] * 4
        assert torch.equal(relabelled(label[:, 0], kind), label[:, 0])


@pytest.mark.slow
def test_every_method_trains(study: ModuleType, data: Path) -> None:
    losses = {}
    for name, method in study.METHODS.items():
        model, losses[name] = study.train(small(study, epochs=1), method, data, seed=0)
        assert not model.training
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert len(set(losses.values())) == len(losses)  # every method differs from all others


def by_weights(_: Any, name: str, model: torch.nn.Module, data: Path) -> Evaluation:
    """Stand in for all measures of a network by a number that another network has not."""
    number = float(sum(weight.abs().sum() for weight in model.state_dict().values()))
    result = Result("classification", "", {"top1": number}, {"top1": np.full(12, number)})
    return Evaluation(name, (result,), {"train_top1": number}, str(data))


def test_a_study_goes_on_where_it_was_interrupted(
    study: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, trained = study.train, []

    def counted(settings: Any, method: Any, data: Path, seed: int) -> Any:
        trained.append(method)
        return train(settings, method, data, seed)

    monkeypatch.setattr(study, "train", counted)
    monkeypatch.setattr(study, "evaluate", by_weights)
    methods = ("none", "cutmix")
    at_once = study.study(small(study, methods=methods), data, tmp_path / "a")
    study.study(small(study, methods=("none",)), data, tmp_path / "b")
    first = (tmp_path / "b" / "none" / "0" / "report.json").read_bytes()
    later = study.study(small(study, methods=methods), data, tmp_path / "b")
    assert (tmp_path / "b" / "none" / "0" / "report.json").read_bytes() == first
    assert later["methods"] == at_once["methods"]
    assert len(trained) == 2 * len(methods)
    # A network is measured again, not trained again, where its numbers are gone.
    (tmp_path / "b" / "none" / "0" / "report.json").unlink()
    again = study.study(small(study, methods=methods), data, tmp_path / "b")
    assert again["methods"] == at_once["methods"]
    assert len(trained) == 2 * len(methods)
    # Also where nobody asked for the training of other settings.
    with pytest.raises(SystemExit, match=r"cutmix/0 was trained with other epochs\. Pass another"):
        study.study(small(study, methods=("mixup",), epochs=3), data, tmp_path / "b")
    others = study.generated(tmp_path / "others")
    image = next(iter(sorted((others / "val").rglob("*.png"))))
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(SystemExit, match=r"cutmix/0 was measured with other val\. Pass another"):
        study.study(small(study, methods=methods), others, tmp_path / "b")
    settings = small(study, methods=methods, max_images=9, other=data / "val")
    with pytest.raises(SystemExit, match=r"cutmix/0 was measured with other max_images, other\."):
        study.study(settings, data, tmp_path / "b")


@pytest.mark.slow
def test_a_study_measures_its_networks_in_full_and_tells_what_it_is_of(
    study: ModuleType, data: Path, tmp_path: Path
) -> None:
    settings = small(study, methods=("none", "cutmix"), other=data / "val")
    content = study.study(settings, data, tmp_path)
    assert content["facts"] == {
        "training images": 24,
        "test images": 12,
        "classes": 3,
        "side": study.side_of(data),
    }
    names = {"train_top1", "train_loss", "classification/top1", "outliers/crops_auroc"}
    names |= {"localisation/max_box_acc_v2"}
    for row in content["methods"].values():
        assert names <= set(row["numbers"])
        assert all(len(values) == 1 for values in row["numbers"].values())
        assert 0 <= row["numbers"]["outliers/crops_auroc"][0] <= 1
    low, high = content["methods"]["none"]["cutmix_minus_this_over_images"]["occlusion/center"]
    assert low <= high
    assert "cutmix_minus_this_over_images" not in content["methods"]["cutmix"]


def test_a_network_of_a_study_is_a_checkpoint_of_a_classifier(
    study: ModuleType, data: Path, tmp_path: Path
) -> None:
    settings = small(study, epochs=1)
    model, loss = study.train(settings, study.METHODS["none"], data, seed=0)
    trained, _ = study.described(settings, data)
    content = study.checkpoint_of(model, data) | {"loss": loss, "settings": trained}
    study.write(tmp_path, content)
    classes = FileList.from_folder(data / "val").classes
    subject = load_subject(str(tmp_path / study.WEIGHTS), classes)
    image = torch.randn(2, 3, *subject.size)
    assert torch.equal(subject.model(image), model(image))
    assert subject.transform == study.EvalTransform(48, 48)


def test_a_few_images_are_spread_over_all_classes(data: Path) -> None:
    source = FileList.from_folder(data / "val")
    few = spread(source, 3)
    assert len(few) == 3
    assert sorted(np.asarray(few.targets).tolist()) == [0, 1, 2]
    assert {few.path(i) for i in range(3)} < {source.path(i) for i in range(len(source))}
    assert spread(source, None) is spread(source, 12) is source
    with pytest.raises(SystemExit, match="`max_images` must be at least 1, got 0"):
        spread(source, 0)


def test_what_no_study_can_be_made_of_is_refused(
    study: ModuleType, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"`methods` must be names among none, .* got \['cutmx'\]"):
        study.study(small(study, methods=("none", "cutmx")), data, tmp_path)
    for name in ("seeds", "epochs", "batch_size", "width", "max_images"):
        with pytest.raises(SystemExit, match=f"`{name}` must be at least 1, got 0"):
            small(study, **{name: 0})
    with pytest.raises(SystemExit, match="`data` must be a folder with train/ and val/ in it, got"):
        study.main(small(study, data=tmp_path, out=tmp_path / "out"))
    with pytest.raises(SystemExit, match="`out` must be a folder for the results"):
        study.main(small(study, data=data))
    halved = study.generated(tmp_path / "halved")
    shutil.rmtree(halved / "val" / "part_01")
    with pytest.raises(SystemExit, match=r"same class folders; odd are \['part_01'\]"):
        study.study(small(study), halved, tmp_path / "out")
    with pytest.raises(SystemExit, match="`other` must be a folder of folders of images, got"):
        study.study(small(study, other=tmp_path / "absent"), data, tmp_path / "out")
    boxless = study.generated(tmp_path / "boxless")
    (boxless / "val.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"val\.json"):
        study.study(small(study), boxless, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    wide = next(iter(sorted((halved / "val").rglob("*.png"))))
    Image.new("RGB", (40, 48)).save(wide)
    with pytest.raises(SystemExit, match="must be square, got 40 x 48 pixels"):
        study.side_of(halved)


# ------------------------------------------------------------------------------------------ page


def row(**numbers: list[float | None]) -> dict[str, Any]:
    return {
        "numbers": {name.replace("__", "/"): values for name, values in numbers.items()},
    }


def made_up(**methods: dict[str, Any]) -> dict[str, Any]:
    about = {"data": "silhouettes", "date": "2026-11-29", "machine": "a machine, 2 cores"}
    facts = {"training images": 1000, "test images": 2000, "classes": 10, "side": 28}
    settings = {"epochs": 80, "batch_size": 64, "max_images": 500}
    return {"what": "study", "settings": settings, "facts": facts, "methods": methods, **about}


def page(**methods: dict[str, Any]) -> str:
    return "\n".join(recipe("render_results").page({"a": made_up(**methods)}))


def verdicts(text: str) -> list[str]:
    text = text.split("### Beside the claims")[0]
    rows = [line for line in text.splitlines() if " points |" in line]
    return [line.split(" | ")[-1].removesuffix(" |") for line in rows]


def test_the_page_shows_mean_and_deviation_over_runs() -> None:
    text = page(none=row(train_top1=[1.0, 1.0, 1.0], classification__top1=[0.90, 0.91, 0.92]))
    assert "## silhouettes" in text
    assert "1000 training images and 2000 test images of 10 classes, 28 x 28 pixels." in text
    assert "| method | runs | top-1, % | top-1 of training images, % |" in text
    assert "| none | 3 | 91.0 ± 1.0 | 100.0 ± 0.0 |" in text
    assert "NLL" not in text  # no study has this number
    missing = row(train_top1=[1.0, 1.0], classification__top1=[0.9, None])
    assert "| none | 2 | - | 100.0 ± 0.0 |" in page(none=missing)


def test_claims_are_judged_by_the_interval_over_training_runs() -> None:
    def judged(none: list[float], cutmix: list[float | None], number: str) -> list[str]:
        return verdicts(
            page(
                none=row(train_top1=none, **{number: none}),
                cutmix=row(train_top1=cutmix, **{number: cutmix}),
            )
        )

    low, high, wide = [0.50, 0.51, 0.52], [0.70, 0.71, 0.72], [0.3, 0.6, 0.75]
    assert judged(low, high, "occlusion__center") == ["shown"]
    assert judged(high, low, "occlusion__center") == ["**contradicted**"]
    assert judged(low, wide, "occlusion__center") == ["open"]
    # Of confidence above accuracy, and of errors, less is better.
    for number in ("classification__overconfidence", "corruptions__mean_error"):
        assert judged(low, high, number) == ["**contradicted**"]
        assert judged(high, low, number) == ["shown"]
    assert judged(low[:2], [0.7, None], "occlusion__center") == []
    assert judged(low, high, "localisation__max_box_acc_v2") == ["shown"]
    # Of these, no difference says anything.
    assert judged(low[:1], high[:1], "occlusion__center") == ["not judged: one run"]
    assert judged([1.0] * 3, [1.0] * 3, "occlusion__center") == ["not judged: equal in all runs"]
    modest = [-0.1, -0.2, -0.11]
    assert judged(modest, [-0.5, -0.51, -0.52], "classification__overconfidence") == [
        "not judged: the baseline is not over-confident"
    ]
    assert judged([0.0, 0.0, 0.01], [0.2, 0.21, 0.2], "outliers__uniform_auroc") == [
        "not judged: both are worse than a guess"
    ]
    assert judged([0.0, 0.0, 0.01], [0.7, 0.71, 0.7], "outliers__uniform_auroc") == ["shown"]


@pytest.mark.parametrize(
    ("over_images", "verdict"), [([0.1, 0.3], "shown"), ([-0.01, 0.4], "open"), (None, "shown")]
)
def test_an_interval_over_images_must_agree(over_images: list[float] | None, verdict: str) -> None:
    none = row(train_top1=[1.0] * 3, occlusion__center=[0.50, 0.51, 0.52])
    cutmix = row(train_top1=[1.0] * 3, occlusion__center=[0.70, 0.71, 0.72])
    if over_images is not None:
        none["cutmix_minus_this_over_images"] = {"occlusion/center": over_images}
    assert verdicts(page(none=none, cutmix=cutmix)) == [verdict]


def test_localisation_is_not_judged_where_objects_fill_their_images() -> None:
    for whole, verdict in ((0.7, "not judged: objects fill their images"), (0.1, "shown")):
        methods = {
            name: row(
                train_top1=values,
                localisation__max_box_acc_v2=values,
                localisation__whole_image_v2=[whole] * 3,
            )
            for name, values in (("none", [0.5, 0.51, 0.52]), ("cutmix", [0.7, 0.71, 0.72]))
        }
        assert verdicts(page(**methods)) == [verdict]


def test_questions_beside_the_claims_are_answered_by_yes_and_no() -> None:
    for none, cutmix, answer in ((0.9, 0.5, "yes"), (0.5, 0.9, "**no**")):
        methods = {
            name: row(train_top1=[1.0] * 3, classification__nll=[nll, nll + 0.01, nll - 0.01])
            for name, nll in (("none", none), ("cutmix", cutmix))
        }
        (line,) = [line for line in page(**methods).splitlines() if "lower NLL" in line]
        assert line.endswith(f"| {answer} |")
        assert f"| {cutmix - none:+.3f} |" in line


def test_a_training_with_wrong_labels_stands_beside_the_right_one() -> None:
    methods = {
        name: row(train_top1=[1.0], classification__top1=[top1])
        for name, top1 in (("none", 0.8), ("cutmix", 0.9), ("swapped_labels", 0.7))
    }
    assert "Its top-1 is 70.0 %, against 90.0 % with the right weights and 80.0 %" in page(
        **methods
    )
    methods.pop("swapped_labels")
    assert "Control" not in page(**methods)


def test_results_of_other_recipes_are_tables_of_their_own() -> None:
    render = recipe("render_results")
    content = {
        "what": "few_labels",
        "date": "2026-11-29",
        "machine": "a machine",
        "data": "silhouettes, 28 px",
        "rows": [
            {"method": "none", "labels": 40, "top1": [0.5, 0.6]},
            {"method": "fixmatch", "labels": 40, "top1": [0.7, 0.7]},
        ],
    }
    text = "\n".join(render.page({"b": content}))
    assert "## Few labels: MixMatch and FixMatch" in text
    assert "| runs | method | labels per class | top-1, % |" in text
    assert "| 2 | none | 40 | 55.0 ± 7.1 |" in text


def test_differences_to_the_baseline_have_welchs_interval_and_are_bold_where_clear() -> None:
    render = recipe("render_results")
    rows = [
        {"method": "untrained", "iou": [0.0, 0.0, 0.0], "top1": [0.5, 0.5, 0.5]},
        {"method": "none", "iou": [0.50, 0.51, 0.52], "top1": [0.5, 0.5, 0.5], "map": [0.5]},
        {"method": "cutmix", "iou": [0.60, 0.61, 0.62], "top1": [0.4, 0.5, 0.6]},
        {"method": "ricap", "iou": [0.60, 0.61, None], "top1": [0.4, 0.5, 0.6]},
    ]
    content = {"what": "detection_ssd", "date": "d", "machine": "m", "data": "nuclei"}
    text = "\n".join(render.page({"b": content | {"rows": rows, "minutes": 1.25}}))
    assert "The steps of a training took 1.2 minutes on average." in text
    assert "Points above none, with Welch's 95 % interval over training runs:" in text
    # By hand: 10 points, a standard error of sqrt(2 / 3), 4 degrees of freedom, t of 2.776.
    # And 0 points, a standard error of 10 / sqrt(3), 2 degrees of freedom, t of 4.303.
    # A number that only some rows have is shown, and not compared with what lacks it.
    assert "| cutmix | **+10.0 (+7.7 to +12.3)** | +0.0 (-24.8 to +24.8) | - |" in text
    assert "| 3 | none | 51.0 ± 1.0 | 50.0 ± 0.0 | 50.0 |" in text
    assert "| ricap | - | +0.0 (-24.8 to +24.8) | - |" in text  # a run without the number
    assert "| 3 | untrained | 0.0 ± 0.0 | 50.0 ± 0.0 | - |" in text


def test_table_of_tasks_says_what_each_method_had_by_the_latest_file() -> None:
    rows = [{"method": "none", "iou": [0.5, 0.6]}, {"method": "cutmix", "iou": [0.7, 0.7]}]
    latest = {"what": "cutmix_seg", "machine": "a CPU", "rows": rows, "minutes": 2.0}
    older = latest | {"rows": [{"method": "none", "iou": [0.0]}]}
    cells = list(task_rows({"2026-01-01_a": older, "2026-01-02_a": latest}))
    row = next(row for row in cells if "segmentation_cutmix_seg" in row[1])
    assert row[4] == "IoU in %: none 55.0 ± 7.1, cutmix 70.0 ± 0.0; n = 2; 2.0 min each; a CPU"
    assert next(row for row in cells if "contrastive" in row[1])[4] == "not yet run"


def test_summary_of_the_tasks_counts_what_welchs_interval_leaves_clear() -> None:
    def content(what: str, cutmix: list[float], **others: list[float]) -> dict[str, Any]:
        sides = {"none": [0.50, 0.51, 0.52], "cutmix": cutmix, **others}
        number = next(task.number for task in TASKS if task.what == what)
        return {"what": what, "rows": [{"method": m, number: v} for m, v in sides.items()]}

    said = summary(
        {
            "a": content("detection_ssd", [0.60, 0.61, 0.62]),
            "b": content("captions", [0.40, 0.41, 0.42]),
            "c": content("scenes", [0.40, 0.51, 0.62]),
            "d": content("volumes_unet3d", [0.50, 0.51, 0.52]),
        }
    )
    assert "better than without in 1 (detection_ssd), worse in 1 (captions), and open in 2" in said


def test_every_task_has_its_recipe_and_a_command_that_is_taken() -> None:
    for task in TASKS:
        parse(recipe(task.recipe).PRESETS, task.flags.split())


def test_the_page_in_the_repository_is_what_the_results_say() -> None:
    render = recipe("render_results")
    render.main(render.Settings(check=True))
    text = (render.FOLDER / "RESULTS.md").read_text()
    plots = {render.FOLDER / line for line in re.findall(r"\]\((results/.*?\.svg)\)", text)}
    assert plots == set((render.FOLDER / "results").glob("*.svg"))


def test_the_page_is_written_with_its_plots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    render = recipe("render_results")
    monkeypatch.setattr(render, "FOLDER", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text("before\n{}\n{}\nafter\n".format(*render.MARKS))
    with pytest.raises(SystemExit, match=r"results must hold a study\.json"):
        render.main(render.Settings())
    numbers = {"classification__top1": [0.9, 0.91], "occlusion__center": [0.5, 0.51]}
    names = ("none", "prob_0.1", "prob_0.25", "cutmix", "prob_0.75", "prob_1")
    content = made_up(**{name: row(train_top1=[1.0, 1.0], **numbers) for name in names})
    (tmp_path / "results" / "a.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="is out of date"):
        render.main(render.Settings(check=True))
    render.main(render.Settings())
    render.main(render.Settings(check=True))
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| none | 2 | 90.5 ± 0.7 | 100.0 ± 0.0 | 50.5 ± 0.7 |" in text
    assert "### Sweeps" in text
    assert "(results/a.svg)" in text
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")
    assert "| Task | Recipe | Small data |" in readme
    assert "| not yet run |" in readme
    drawn = (tmp_path / "results" / "a.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    render.main(render.Settings())
    assert (tmp_path / "results" / "a.svg").read_bytes() == drawn
