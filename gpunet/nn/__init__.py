"""Layers, losses and initialisers; a layer's forward returns its output and its backward function."""

from gpunet.nn import activation
from gpunet.nn.activation import *
from gpunet.nn.conv import Conv2d
from gpunet.nn.conv_block import ConvBlock
from gpunet.nn.dropout import Dropout
from gpunet.nn.init import INITIALIZERS, Constant, He, Initializer, Random, Xavier
from gpunet.nn.layer import ForwardContext, Layer
from gpunet.nn.linear import Linear
from gpunet.nn.loss import (
    LOSSES,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    FocalLoss,
    HuberLoss,
    Loss,
    MSELoss,
    balanced_class_weights,
)
from gpunet.nn.norm import BatchNorm
from gpunet.nn.parameter import Buffer, FlatParameters, Parameter
from gpunet.nn.pool import AvgPool2d, Flatten, GlobalAvgPool2d, MaxPool2d
from gpunet.nn.sequential import Sequential
from gpunet.nn.summary import summary

__all__ = [
    "INITIALIZERS",
    "LOSSES",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm",
    "Buffer",
    "Constant",
    "Conv2d",
    "ConvBlock",
    "CrossEntropyLoss",
    "Dropout",
    "FlatParameters",
    "Flatten",
    "FocalLoss",
    "ForwardContext",
    "GlobalAvgPool2d",
    "He",
    "HuberLoss",
    "Initializer",
    "Layer",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Parameter",
    "Random",
    "Sequential",
    "Xavier",
    "balanced_class_weights",
    "summary",
]
__all__ += activation.__all__
