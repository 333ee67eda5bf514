"""Weights of other releases into parameter trees and back."""
