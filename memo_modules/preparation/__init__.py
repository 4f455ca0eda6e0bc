"""From a folder of videos to training data."""
