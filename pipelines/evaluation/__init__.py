"""Measure a trained classifier beyond its accuracy: a module per measure, a `Result` from each.

Every measure is a function of a `Subject`, the classifier, and of `Images`, the labelled images.
Modules, in the order of use:

    result          results of measures: numbers, values per image, curves, tables, pictures
    subject         the classifier, from a recipe's checkpoint, torchvision or timm
    predictions     the images, through our loader, and the logits of all of them
    classification  accuracy, loss, calibration, risk and coverage, accuracy per class and group
    occlusion       accuracy with a hole in the centre, and with nothing but the centre
    in_between      the classes seen between two classes, blended and cut
    attacks         accuracy under FGSM and PGD
    corruptions     error under noise, blur, light, compression
    outliers        whether confidence tells other images
    flags           flags of evaluate.py, and what is refused of them alone
    smoke           two untrained models and a few pictures
    prepared        a classifier, its images and all files, checked before the first measure
    image_lists     images behind a command's flags, and their groups
    cam             maps of a class over an image
    box_files       boxes of objects, from VOC's, COCO's or a CSV file
    localisation    whether maps of a class find the objects
    mixed_cam       maps of both classes of a mixed image
    figures         plots and pictures
    saved           evaluations on disk
    compare         differences of two classifiers, and intervals around them
    report          all of it as one HTML file
"""
