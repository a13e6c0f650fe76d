"""What the recipes share: flags, processes, the loop with its checkpoints, and what a run reports.

A recipe says what is trained on what; this runs it. Modules, in the order a run meets them:

    settings     fields that every recipe has, presets, flags
    processes    who takes part, where, and when all of them are asked to stop
    pictures     images made up on the spot for smoke runs
    sampling     repeated augmentation
    schedule     learning rate, image size, weight decay, averaged weights
    checkpoints  one file that is whole at any time
    monitor      progress bar, TensorBoard, losses that are no numbers
    evaluation   exact over all processes
    training     the loop
"""
