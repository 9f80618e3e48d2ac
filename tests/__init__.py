"""Tests: each one states a promise that the package makes."""
