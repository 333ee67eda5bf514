"""What `glide train` hands to the training loop: sample grids and evaluations."""
