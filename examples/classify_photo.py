"""Classify a photo by the mean scores of ten crops: the four corners, the centre, and their mirror images.

    python -m spp.pycaffe examples/classify_photo.py [PHOTO]
    python -m spp.pycaffe examples/classify_photo.py PHOTO --model deploy.prototxt --weights net.caffemodel \\
        --mean 104,117,123 --labels synset.txt

Without a model, the script makes one for six colours; without a photo, it draws a red evening sky.
"""
import argparse
import os
import tempfile

import numpy as np

import caffe

COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0), "green": (0, 255, 0),
           "blue": (0, 0, 255), "yellow": (255, 255, 0)}        # red, green, blue
MODEL = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 3 dim: 48 dim: 64 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "score" type: "InnerProduct" bottom: "mean" top: "score" inner_product_param { num_output: 6 } }
layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
"""


def make_model(folder, mean):
    """Write a net whose scores decrease with the squared distance between an image's mean colour and each colour."""
    model, weights = os.path.join(folder, "colours.prototxt"), os.path.join(folder, "colours.caffemodel")
    with open(model, "w") as file:
        file.write(MODEL)
    net = caffe.Net(model, caffe.TEST)
    bgr = (np.array(list(COLOURS.values()), np.float32)[:, ::-1] - mean) / 64
    net.params["score"][0].data[...] = 2 * bgr / 64
    net.params["score"][1].data[...] = -(bgr ** 2).sum(1)
    net.save(weights)
    return model, weights


def make_photo(folder):
    """Write an image of a sky from dark red to bright red, as a PPM file."""
    path = os.path.join(folder, "sky.ppm")
    sky = np.zeros((90, 120, 3), np.uint8)
    sky[:, :, 0] = np.linspace(120, 255, 90)[:, np.newaxis]
    sky[:, :, 1] = np.linspace(10, 90, 120)
    with open(path, "wb") as file:
        file.write(b"P6 120 90 255\n" + sky.tobytes())
    return path


def main(folder):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", help="an image file")
    parser.add_argument("--model", help="a deploy prototxt with one input and one output")
    parser.add_argument("--weights", help="its caffemodel")
    parser.add_argument("--mean", default="104,117,123", help="of blue, green and red, from 0 to 255")
    parser.add_argument("--size", type=int, default=256, help="of the image that the crops are cut from")
    parser.add_argument("--labels", help="a text file with one class per line")
    args = parser.parse_args()
    if (args.model is None) != (args.weights is None):
        parser.error("give --model and --weights together")
    mean = np.array([float(value) for value in args.mean.split(",")])
    photo = args.photo or make_photo(folder)
    model, weights = (args.model, args.weights) if args.model else make_model(folder, mean)
    labels = list(COLOURS) if not args.model else None
    if args.labels:
        with open(args.labels) as file:
            labels = file.read().splitlines()

    caffe.set_mode_cpu()
    net = caffe.Classifier(model, weights, image_dims=(args.size, args.size), mean=mean, raw_scale=255,
                           channel_swap=(2, 1, 0))
    image = caffe.io.load_image(photo)
    prediction = net.predict([image])[0]
    print("{}: {} x {} pixels, {} classes".format(os.path.basename(photo), image.shape[1], image.shape[0],
                                                  len(prediction)))
    for index in prediction.argsort()[::-1][:5]:
        print("{:6.4f}  {}".format(prediction[index], labels[index] if labels else "class {}".format(index)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
