"""The tests of trio_ws; folders and files mirror the package.

A package, so that ``tests.support`` is found here and never in some other project's ``tests``.
"""
