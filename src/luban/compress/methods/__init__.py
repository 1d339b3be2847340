"""Methods of compression, one file each: see `luban.compress`."""
