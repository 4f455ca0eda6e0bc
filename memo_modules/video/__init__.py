"""Videos on the disk: files and what they are made of, and long ones that go on after a crash."""
