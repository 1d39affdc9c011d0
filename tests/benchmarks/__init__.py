"""Measurements, never asserts: `make bench` prints figures and ratios taken in one run on one machine."""
