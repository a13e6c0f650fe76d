"""Networks that recipes train, what disturbs them from inside, and mixing at their layers.

Modules:

    regularization  ShakeDrop, stochastic depth, DropBlock: layers without parameters
    pyramidnet      PyramidNet for images of 32 px
    resnet          ResNet and ResNeXt of bottlenecks: for 32 px, and torchvision's for ImageNet
    small           four convolutions, for the study and for recipes with few labels
    deeplab         DeepLab v3 on a narrow backbone, for images of about 100 px
    backbone        a classifier without its last layers, to begin another task from
    captioner       an encoder, and a Transformer that says what an image shows
    pairs           an encoder of images and one of captions, compared by cosines
    stages          a classifier's feature maps, one of each resolution
    trained         classifiers that were trained before
    video           torchvision's 3-D ResNets, and narrow forms of them
    features        mixing at a layer, as the paper numbers the layers
"""
