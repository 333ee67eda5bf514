"""The whole system at toy size: six phases, four ways to guide, two to inpaint."""
