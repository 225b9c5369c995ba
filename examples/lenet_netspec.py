"""LeNet written with NetSpec, and trained from an LMDB that this script makes of synthetic digits.

    python -m spp.pycaffe examples/lenet_netspec.py [--images 4000] [--iterations 300] [--folder FOLDER]
"""
import argparse
import os
import tempfile

import lmdb
import numpy as np

import caffe
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2

# five rows of three pixels for each digit, from 0 to 9
GLYPHS = ["111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
          "111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111"]


def digit(label, random):
    """A 28 x 28 uint8 image of a digit with random size, place and brightness, on noise."""
    glyph = np.array(list(GLYPHS[label]), np.float32).reshape(5, 3)
    glyph = np.kron(glyph, np.ones(random.randint(3, 6, 2)))
    image = random.uniform(0, 60, (28, 28))
    top, left = (random.randint(0, 29 - side) for side in glyph.shape)
    image[top:top + glyph.shape[0], left:left + glyph.shape[1]] += glyph * random.uniform(80, 190)
    return image.astype(np.uint8)


def make_lmdb(path, count, seed):
    """Write `count` digits as Datum messages."""
    random = np.random.RandomState(seed)
    env = lmdb.open(path, map_size=1 << 30)
    with env.begin(write=True) as transaction:
        for i in range(count):
            label = random.randint(10)
            datum = caffe.io.array_to_datum(digit(label, random)[np.newaxis], label)
            transaction.put("{:08}".format(i).encode("ascii"), datum.SerializeToString())
    env.close()


def lenet(source, batch_size):
    """Data, two convolutions with pooling, two fully-connected layers, loss and accuracy."""
    n = caffe.NetSpec()
    n.data, n.label = L.Data(batch_size=batch_size, backend=P.Data.LMDB, source=source,
                             transform_param=dict(scale=1. / 255), ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=50, weight_filler=dict(type="xavier"))
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool2, num_output=500, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    n.accuracy = L.Accuracy(n.score, n.label)
    return n.to_proto()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000, help="for training; a fifth as many for testing")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--folder", default=None, help="where databases, nets and weights go")
    args = parser.parse_args()
    folder = args.folder or tempfile.mkdtemp()

    s = caffe_pb2.SolverParameter()
    for name, count, seed in (("train", args.images, 0), ("test", args.images // 5, 1)):
        make_lmdb(os.path.join(folder, name + "_lmdb"), count, seed)
        net_file = os.path.join(folder, name + ".prototxt")
        with open(net_file, "w") as f:
            f.write(str(lenet(os.path.join(folder, name + "_lmdb"), 64 if name == "train" else 100)))
        if name == "train":
            s.train_net = net_file
        else:
            s.test_net.append(net_file)
    s.test_interval, s.test_iter[:] = 10 ** 6, [max(1, args.images // 500)]     # tested below, after the training
    s.test_initialization = False
    s.base_lr, s.momentum, s.weight_decay = 0.01, 0.9, 5e-4
    s.lr_policy, s.gamma, s.power = "inv", 0.0001, 0.75
    s.max_iter, s.display, s.random_seed = args.iterations, 100, 0
    s.snapshot_prefix = os.path.join(folder, "lenet")
    solver_file = os.path.join(folder, "solver.prototxt")
    with open(solver_file, "w") as f:
        f.write(str(s))

    caffe.set_mode_cpu()
    solver = caffe.get_solver(solver_file)
    print([(name, blob.data.shape) for name, blob in solver.net.blobs.items()][:3])
    for start in range(0, args.iterations, 50):
        solver.step(min(50, args.iterations - start))
        print("iteration {}: train loss {:.4f}".format(solver.iter, float(solver.net.blobs["loss"].data)))

    correct = 0
    for _ in range(s.test_iter[0]):
        solver.test_nets[0].forward()
        scores, labels = (solver.test_nets[0].blobs[name].data for name in ("score", "label"))
        correct += sum(scores.argmax(1) == labels)
    print("test accuracy: {:.3f}".format(correct / (100.0 * s.test_iter[0])))
    solver.snapshot()
    print("weights: {}_iter_{}.caffemodel".format(s.snapshot_prefix, solver.iter))


if __name__ == "__main__":
    main()
