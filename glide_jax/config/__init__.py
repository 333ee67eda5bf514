"""What a run is: every setting once, checked together, as frozen dataclasses."""
