"""What the recipes share: flags, processes, the loop with its checkpoints, and what a run reports.

A recipe describes model, data and optimizer; the harness trains. Modules, in the order of a run:

    ranges       types of numbers, each with its range
    settings     fields that recipes share, presets, flags
    unused       flags that would change nothing
    processes    who takes part, where, and when all of them are asked to stop
    folders      folders of data, and the scripts that write some
    pictures     generated images and volumes for smoke runs
    sampling     repeated augmentation
    schedule     learning rate, image size, weight decay, averaged weights
    video_lists  which videos train and which validate
    predictions  a picture of what a classifier says
    labels       other labels of mixed images, for ablations
    methods      what study.py compares
    results      what results.json says of a run
    probe        linear probes of features
    checkpoints  one file that is complete at any time
    monitor      progress bar, TensorBoard, losses that are not finite
    validation   exact over all processes
    overlap      how far predicted masks overlap the true ones, and pictures of both
    training     the loop
    seeds        several trainings that differ by their seeds
    box_folders  images and boxes as COCO, Pascal VOC and YOLO lay them out
    detection    settings and loaders of detectors
    average_precision   what detectors are measured by
    few_labels   settings and images of recipes in which few images have a label
    few_labels_training   the loop of these recipes, of two loaders
    captioned    images with captions: where both lie, and captions as numbers of words
    sounds       where sounds and ESC-50's folds lie, and which files are broken
    caption_runs settings, encoder and loaders of recipes of images with captions
"""
