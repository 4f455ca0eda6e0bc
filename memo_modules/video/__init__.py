"""Videos on the disk: files and what they are made of, and long ones that continue after a crash."""
