"""Layers, losses and initialisers; a layer's forward returns its output and the function of its gradient."""

from gpunet.nn.activation import GELU, LeakyReLU, ReLU, Tanh, activation
from gpunet.nn.conv import Conv2d
from gpunet.nn.conv_block import ConvBlock
from gpunet.nn.dropout import Dropout
from gpunet.nn.init import Constant, He, Initializer, Random, Xavier
from gpunet.nn.layer import Layer, Mode
from gpunet.nn.linear import Linear
from gpunet.nn.loss import SoftmaxCrossEntropy
from gpunet.nn.norm import BatchNorm
from gpunet.nn.parameter import Buffer, FlatParameters, Parameter
from gpunet.nn.pool import AvgPool, Flatten, GlobalAvgPool, MaxPool
from gpunet.nn.sequential import Sequential
from gpunet.nn.summary import summary

__all__ = [
    "GELU",
    "AvgPool",
    "BatchNorm",
    "Buffer",
    "Constant",
    "Conv2d",
    "ConvBlock",
    "Dropout",
    "FlatParameters",
    "Flatten",
    "GlobalAvgPool",
    "He",
    "Initializer",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool",
    "Mode",
    "Parameter",
    "Random",
    "ReLU",
    "Sequential",
    "SoftmaxCrossEntropy",
    "Tanh",
    "Xavier",
    "activation",
    "summary",
]
