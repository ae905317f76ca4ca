#!/bin/sh
# Stand-in: would rotate the logs of volumedrivers.
echo "stand-in framework: no logs of volumedrivers to rotate"
