"""Workers that share out jobs: this process, several on this machine, or actors of a Ray cluster. Rendering and preparation ride on it."""
