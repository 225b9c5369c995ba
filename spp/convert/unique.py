"""Names of layers, blobs, nodes and tensors that no other has."""


def unique_name(name: str, names: set[str], separator: str) -> str:
    """The name, with a number appended if it is in `names` already; adds the result to `names`."""
    result, number = name, 1
    while result in names:
        number += 1
        result = f"{name}{separator}{number}"
    names.add(result)
    return result
