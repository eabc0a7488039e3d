#!/bin/sh
# Beam's runners start the image with options alone; everybody else names a program.
set -e
case "$1" in
  --*) exec /opt/apache/beam/boot "$@" ;;
  *) exec "$@" ;;
esac
