"""From a folder of videos to what training reads of them."""
