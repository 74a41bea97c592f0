"""`make bench`: what the product takes, beside what other programs take for the same, on one computer at one time.

A figure is a module with `measure(bench)`, which yields rows. Ratios mean something, seconds of this computer do not:
whoever is compared is measured in turn within the same minute, and the table shows medians.
"""
