"""Blob: memory that grows, orders, sharing."""
import numpy as np
import pytest

from spp.blob import Blob


def test_a_four_axis_blob_lies_channels_last_and_others_in_c_order():
    blob = Blob((2, 3, 5, 4))
    assert blob.data.shape == (2, 3, 5, 4)
    assert blob.data.transpose(0, 2, 3, 1).flags.c_contiguous and not blob.caffe_order
    assert Blob((2, 3, 5)).data.flags.c_contiguous
    assert Blob((2, 3, 1, 1)).caffe_order and Blob((2, 1, 5, 4)).caffe_order
    weights = Blob((2, 3, 5, 4), channels_last=False)
    assert weights.caffe_order and weights.data.flags.c_contiguous


def test_memory_is_taken_on_use_and_only_grows():
    blob = Blob((4, 5))
    assert not blob.has_diff
    first = blob.data
    assert blob.data is first and not first.any()
    first[...] = 7
    blob.reshape(2, 3)
    assert blob.data.shape == (2, 3) and np.shares_memory(blob.data, first)
    blob.reshape((4, 5))
    assert np.shares_memory(blob.data, first)
    blob.reshape(4, 6)
    assert not np.shares_memory(blob.data, first) and first[3, 4] == 7
    blob.diff[...] = 1
    assert blob.has_diff and blob.count == 24


def test_sharing_between_shapes_needs_caffes_order():
    four, flat = Blob((2, 3, 5, 4)), Blob((2, 60))
    with pytest.raises(ValueError, match=r"shapes \(2, 60\) and \(2, 3, 5, 4\) cannot share memory"):
        flat.share_data(four)
    ordered = Blob((2, 3, 5, 4), channels_last=False)
    flat.share_data(ordered)
    ordered.data[1, 2, 3, 1] = 9
    assert flat.data[1, 2 * 20 + 3 * 4 + 1] == 9
    shared = Blob((2, 3, 5, 4))
    shared.share_data(four)
    shared.data[0, 1, 2, 3] = 4
    assert four.data[0, 1, 2, 3] == 4 and not shared.caffe_order


def test_a_sharer_follows_when_the_owner_grows():
    owner, sharer = Blob((2, 2)), Blob((2, 2))
    sharer.share_data(owner)
    owner.data[...] = 1
    for blob in (owner, sharer):
        blob.reshape(3, 3)
    owner.data[...] = 2
    assert (sharer.data == 2).all()


def test_legacy_names():
    blob = Blob((2, 3))
    assert (blob.num, blob.channels, blob.height, blob.width) == (2, 3, 1, 1)
    with pytest.raises(ValueError, match="at most 4 axes"):
        Blob((1, 2, 3, 4, 5)).num
