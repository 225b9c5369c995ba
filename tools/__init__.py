"""Command-line programs: each parses its arguments, calls spp and prints.

In an installation this folder is the package `spp_tools` (setup.cfg maps one to the other), and each program is a
command such as spp-train-net. In a clone each program is also a link `tools/train_net` to the shell script `launch`,
which runs the Python file of the same name in the clone's own environment and makes that environment if needed.
"""
