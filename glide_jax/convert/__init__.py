"""Conversion of released weights to parameter trees and back."""
