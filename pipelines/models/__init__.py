"""Networks that recipes train, and what regularises them from inside.

regularization  ShakeDrop, stochastic depth, DropBlock: layers without parameters
pyramidnet      PyramidNet for images of 32 px
resnet          ResNet and ResNeXt of bottlenecks: for 32 px, and torchvision's for ImageNet
"""
