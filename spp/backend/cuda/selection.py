"""Elements selected by index or by size."""
import cupy


def take_rows(x: cupy.ndarray, indices: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[k] = x[indices[k]]; indices: integers (K), in range. x and y have one dtype and any order of memory."""
    cupy.take(x, indices, 0, out=y)


def take_columns(x: cupy.ndarray, columns: cupy.ndarray, y: cupy.ndarray) -> None:
    """y[r] = x[r, columns[r]]; x: R x C; columns: int64 (R), in range; y: R."""
    y[...] = cupy.take_along_axis(x, columns[:, None], 1)[:, 0]


def largest(x: cupy.ndarray, indices: cupy.ndarray, values: cupy.ndarray) -> None:
    """values = the k largest elements of each row, the largest first; indices (int64) = their columns."""
    count = values.shape[1]
    if count == 1:
        indices[...] = x.shape[1] - 1 - cupy.flip(x, 1).argmax(1)[:, None]
    else:
        indices[...] = cupy.flip(cupy.argsort(x, 1, kind="stable"), 1)[:, :count]
    values[...] = cupy.take_along_axis(x, indices, 1)
