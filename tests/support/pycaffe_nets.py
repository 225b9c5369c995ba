"""Nets for the tests of spp.pycaffe."""
import numpy as np

# single quotes, the old form of DummyData's sizes, and a param after convolution_param: all this is read
NET = """
name: 'testnet' force_backward: true
layer { type: 'DummyData' name: 'data' top: 'data' top: 'label'
  dummy_data_param { num: 5 channels: 2 height: 3 width: 4 num: 5 channels: 1 height: 1 width: 1
    data_filler { type: 'gaussian' std: 1 } data_filler { type: 'constant' } } }
layer { type: 'Convolution' name: 'conv' bottom: 'data' top: 'conv'
  convolution_param { num_output: 11 kernel_size: 2 pad: 3 weight_filler { type: 'gaussian' std: 1 }
    bias_filler { type: 'constant' value: 2 } } param { decay_mult: 1 } param { decay_mult: 0 } }
layer { type: 'InnerProduct' name: 'ip' bottom: 'conv' top: 'ip_blob'
  inner_product_param { num_output: %d weight_filler { type: 'gaussian' std: 0.05 }
    bias_filler { type: 'constant' value: -3 } } }
layer { type: 'SoftmaxWithLoss' name: 'loss' bottom: 'ip_blob' bottom: 'label' top: 'loss' }
"""
DEPLOY = """
name: 'deploy' force_backward: true
layer { type: 'Input' name: 'in' top: 'data' input_param { shape { dim: 4 dim: 2 dim: 3 dim: 5 } } }
layer { type: 'Convolution' name: 'conv' bottom: 'data' top: 'conv'
  convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: 'gaussian' std: 1 }
    bias_filler { type: 'constant' value: 20 } } }
layer { type: 'ReLU' name: 'relu' bottom: 'conv' top: 'conv' }
layer { type: 'Pooling' name: 'pool' bottom: 'conv' top: 'pool' pooling_param { pool: AVE global_pooling: true } }
"""


def write(folder, text, name="net.prototxt"):
    path = folder / name
    path.write_text(text)
    return str(path)


X = np.zeros((4, 2, 3, 5), np.float32)
