"""Runs tests as the Python extension does: by a program of its own, which is what debugpy starts."""
import os
import sys
import unittest

sys.path.insert(0, os.getcwd())
unittest.main(module=None, argv=["unittest", *sys.argv[1:]])
