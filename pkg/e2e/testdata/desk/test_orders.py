"""What main_test.go does, in Python."""
import os
import socket
import unittest


class Orders(unittest.TestCase):
    def test_order(self):
        given = os.environ.get("GIVEN", "")
        variable = os.environ.get(os.environ["VARIABLE"], "")
        file = open(os.environ["FILE"]).read().strip()
        host = socket.gethostname()
        self.assertTrue(given and variable and file and host)  # a breakpoint's line
