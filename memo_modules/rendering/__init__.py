"""Many videos into a folder, each exactly once, by as many processes and machines as there are; see folder and workers."""
