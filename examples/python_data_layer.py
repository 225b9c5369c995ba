"""A data layer written in Python, and a solver run step by step.

    python -m spp.pycaffe examples/python_data_layer.py

The layer generates its images: a bright bar on noise, vertical (class 0) or horizontal (class 1). The net learns
to tell them apart.
"""
import os
import tempfile

import numpy as np

import caffe

NET = """
layer { name: "data" type: "Python" top: "data" top: "label"
  python_param { module: "python_data_layer" layer: "BarsLayer" param_str: "{'batch_size': 32, 'size': 12}" } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX global_pooling: true } }
layer { name: "score" type: "InnerProduct" bottom: "pool" top: "score"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "score" bottom: "label" top: "accuracy" }
"""
SOLVER = """
train_net: "{}"
base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" random_seed: 1
"""


class BarsLayer(caffe.Layer):
    """Tops: images N x 1 x size x size, and labels N."""

    def setup(self, bottom, top):
        params = eval(self.param_str)
        self.batch_size, self.size = params["batch_size"], params["size"]
        if len(top) != 2:
            raise Exception("needs two tops: data and label")
        self.images = 0
        self.random = np.random.RandomState(0)

    def reshape(self, bottom, top):
        top[0].reshape(self.batch_size, 1, self.size, self.size)
        top[1].reshape(self.batch_size)

    def forward(self, bottom, top):
        for i in range(self.batch_size):
            image = self.random.normal(0, 0.3, (self.size, self.size))
            row, column = self.random.randint(0, self.size - 5, 2)
            label = self.random.randint(2)
            bar = (slice(row, row + 5), slice(column, column + 1))
            image[bar if label == 0 else bar[::-1]] += 1
            top[0].data[i, 0] = image
            top[1].data[i] = label
        self.images += self.batch_size

    def backward(self, top, propagate_down, bottom):
        pass


def main(folder):
    net_file, solver_file = os.path.join(folder, "net.prototxt"), os.path.join(folder, "solver.prototxt")
    with open(net_file, "w") as file:
        file.write(NET)
    with open(solver_file, "w") as file:
        file.write(SOLVER.format(net_file))

    solver = caffe.SGDSolver(solver_file)
    losses, accuracies = [], []
    for it in range(200):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
        accuracies.append(float(solver.net.blobs["accuracy"].data))
        if it % 40 == 0:
            print("iteration {}: loss {:.3f}".format(solver.iter, losses[-1]))
    layer = solver.net.layers[0]
    print("the {} layer gave {} images".format(layer.type, layer.images))
    print("accuracy over the last 20 batches: {:.3f}".format(np.mean(accuracies[-20:])))
    assert np.mean(accuracies[-20:]) > 0.9


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
