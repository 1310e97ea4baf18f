"""Tests of blurtrain; a package so that test modules can share types."""
