"""Net surgery: cast the fully-connected layers of a net into convolutions, and slide it over a larger image.

    python -m spp.pycaffe examples/net_surgery.py

An InnerProduct layer on C x H x W is a convolution with one window of H x W; its weights are the same numbers in
the same order. The convolution computes all windows of a larger image at once.
"""
import os
import tempfile

import numpy as np

import caffe

FEATURES = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: %d dim: %d } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 16 kernel_size: 5 stride: 2 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
"""
CONNECTED = """
layer { name: "fc2" type: "InnerProduct" bottom: "pool1" top: "fc2"
  inner_product_param { num_output: 32 weight_filler { type: "msra" } bias_filler { type: "constant" value: 0.1 } } }
layer { name: "relu2" type: "ReLU" bottom: "fc2" top: "fc2" }
layer { name: "fc3" type: "InnerProduct" bottom: "fc2" top: "score"
  inner_product_param { num_output: 10 weight_filler { type: "msra" } } }
layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
"""
CONVOLUTIONAL = """
layer { name: "fc2-conv" type: "Convolution" bottom: "pool1" top: "fc2"
  convolution_param { num_output: 32 kernel_h: %d kernel_w: %d } }
layer { name: "relu2" type: "ReLU" bottom: "fc2" top: "fc2" }
layer { name: "fc3-conv" type: "Convolution" bottom: "fc2" top: "score"
  convolution_param { num_output: 10 kernel_size: 1 } }
layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
"""
HEIGHT, WIDTH = 31, 23      # of the image that the connected net sees
STEP = 4                    # stride, in pixels of the image, of the convolutional net's output


def main(folder):
    connected_file, weights, convolutional_file = (os.path.join(folder, name) for name in (
        "connected.prototxt", "connected.caffemodel", "convolutional.prototxt"))
    with open(connected_file, "w") as file:
        file.write(FEATURES % (HEIGHT, WIDTH) + CONNECTED)
    net = caffe.Net(connected_file, caffe.TEST)
    net.save(weights)

    feature_height, feature_width = net.blobs["pool1"].data.shape[2:]
    with open(convolutional_file, "w") as file:
        file.write(FEATURES % (HEIGHT, WIDTH) + CONVOLUTIONAL % (feature_height, feature_width))
    # conv1 has its old name and so gets its old weights; the others are transplanted
    net_full_conv = caffe.Net(convolutional_file, caffe.TEST, weights=weights)
    for old, new in (("fc2", "fc2-conv"), ("fc3", "fc3-conv")):
        net_full_conv.params[new][0].data.flat = net.params[old][0].data.flat
        net_full_conv.params[new][1].data[...] = net.params[old][1].data
        print("{}: {} -> {}: {}".format(old, net.params[old][0].data.shape, new,
                                        net_full_conv.params[new][0].data.shape))

    image = np.random.RandomState(0).rand(1, 3, 2 * HEIGHT, 3 * WIDTH).astype(np.float32)
    net_full_conv.blobs["data"].reshape(*image.shape)
    scores = net_full_conv.forward(data=image)["prob"]
    print("an image of {} x {} gives {} x {} places".format(*(image.shape[2:] + scores.shape[2:])))
    largest = 0
    for y in range(scores.shape[2]):
        for x in range(scores.shape[3]):
            window = image[:, :, STEP * y:STEP * y + HEIGHT, STEP * x:STEP * x + WIDTH]
            expected = net.forward(data=window)["prob"][0]
            largest = max(largest, abs(scores[0, :, y, x] - expected).max())
    print("largest difference from the connected net run at each place: {:.1e}".format(largest))
    assert largest < 1e-5


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
