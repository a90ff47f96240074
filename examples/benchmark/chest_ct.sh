#!/usr/bin/env bash
# Chest CT (LUNA16's folder, or any other with CTs, searched recursively) to Genesis Chest CT weights:
#   examples/benchmark/chest_ct.sh /data/luna16 out [--budget cpu]
# Published: HU clipped to -1000 … 1000, 1000 epochs. --budget cpu: a small network (planned for 1 GB) and 20 x 50 iterations.
set -euo pipefail
scans=${1:?usage: chest_ct.sh SCANS OUT [--budget cpu]} out=${2:?usage: chest_ct.sh SCANS OUT [--budget cpu]}
prepare=() pretrain=(-device cuda)
if [[ ${*:3} == "--budget cpu" ]]; then
  prepare=(-gpu_memory_target 1) pretrain=(-device cpu --epochs 20 --iterations 50 --lr 2e-3)
  echo "Differs from the published protocol: network and patch planned for 1 GB (8), epochs 20 (1000)," \
    "iterations 50 (250), peak learning rate 2e-3 (1e-3)"
elif (($# > 2)); then
  echo "chest_ct.sh: expected --budget cpu, found ${*:3}" >&2
  exit 2
fi
mkdir -p "$out"/nnUNet_{raw,preprocessed,results}
export nnUNet_raw=$out/nnUNet_raw nnUNet_preprocessed=$out/nnUNet_preprocessed nnUNet_results=$out/nnUNet_results
# 3: some scans were left out, each with its reason in genesis_manifest.csv.
nnUNetv2_genesis_prepare -i "$scans" -d 701 -n ChestCT --modality CT --hu_window -1000 1000 "${prepare[@]}" || (($? == 3))
nnUNetv2_genesis_pretrain 701 3d_fullres --c "${pretrain[@]}"
echo "Genesis Chest CT weights: $nnUNet_results/Dataset701_ChestCT/nnUNetTrainerRestoration__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"
