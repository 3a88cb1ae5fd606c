"""Tests and measurements on a graphics card; `bench/gpu/gpu.sh` starts them."""
