"""A small net and solver on an LMDB, and a listener that remembers what it heard."""
import os

import numpy as np

from spp.training.reporting import Listener

NET = """
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "%s" backend: LMDB batch_size: 4 }
  transform_param { crop_size: 9 mirror: true scale: 0.01 } include { phase: TRAIN } }
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "%s" backend: LMDB batch_size: 3 }
  transform_param { crop_size: 9 scale: 0.01 } include { phase: TEST } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 6 kernel_size: 3
  weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "spp" type: "SPP" bottom: "conv" top: "spp" spp_param { bins: 2 bins: 1 } }
layer { name: "drop" type: "Dropout" bottom: "spp" top: "spp" dropout_param { dropout_ratio: 0.25 } }
layer { name: "fc" type: "InnerProduct" bottom: "spp" top: "fc" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
SOLVER = """
net_param { %s }
base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 7 momentum: 0.9 weight_decay: 0.001 random_seed: 3 max_iter: 20
test_iter: 2 test_interval: 4 snapshot_prefix: "%s" %s
"""


def weights(solver):
    return [np.array(entry.blob.data) for entry in solver.net.learnable]


class Hook(Listener):
    """Calls functions of a test at the two events within an iteration."""

    def __init__(self, on_gradients=lambda: None, on_step_begin=lambda: None):
        self._functions = on_gradients, on_step_begin

    def on_gradients(self, solver):
        self._functions[0]()

    def on_step_begin(self, solver):
        self._functions[1]()


class Recorder(Listener):
    def __init__(self):
        self.losses, self.tests, self.messages, self.snapshots, self.displayed = {}, {}, [], [], []

    def on_step(self, solver, iteration, loss, lr, images):
        self.losses[iteration] = (loss, lr)
        assert images == 4 * solver.param.iter_size

    def on_display(self, solver, iteration, loss, lr, outputs):
        self.displayed.append((iteration, loss, outputs))

    def on_test(self, solver, iteration, index, outputs, loss):
        self.tests[iteration] = outputs

    def on_snapshot(self, solver, path):
        self.snapshots.append(os.path.basename(path))

    def on_message(self, solver, text):
        self.messages.append(text)
