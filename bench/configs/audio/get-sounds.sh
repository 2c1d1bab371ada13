#!/bin/sh
# Fetches the recordings that the configurations beside this file learn from: Debian's package asterisk-core-sounds-en-wav,
# spoken words of one voice, 568 files of 8,000 samples a second, 25 MB (Allison Smith, CC-BY-SA-3.0). Needs apt and dpkg; nothing is installed.
#
#     sh bench/configs/audio/get-sounds.sh [FOLDER]
#
# FOLDER is `sounds` beside this file, where the configurations look for them.
set -eu
folder=${1:-"$(dirname "$0")/sounds"}
mkdir -p "$folder"
cd "$folder"
apt-get download asterisk-core-sounds-en-wav
dpkg -x asterisk-core-sounds-en-wav_*_all.deb .
rm asterisk-core-sounds-en-wav_*_all.deb
