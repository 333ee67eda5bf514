# Sourced: names of TPU slices. The cloud's name, v5p-256, counts TensorCores (up to v4, and
# v5p) or chips (v5e and v6e). Kubernetes and `glide plan` use the shape, v5p:4x4x8.

# The shape of each chip count, from https://cloud.google.com/tpu/docs; v4, v5p and tpu7x are
# three-dimensional.
declare -A SHAPES_V2=([4]=2x2 [16]=4x4 [64]=8x8 [128]=8x16 [256]=16x16)
declare -A SHAPES_V3=([4]=2x2 [16]=4x4 [32]=4x8 [64]=8x8 [128]=8x16 [256]=16x16
  [512]=16x32 [1024]=32x32)
declare -A SHAPES_2D=([1]=1x1 [4]=2x2 [8]=2x4 [16]=4x4 [32]=4x8 [64]=8x8 [128]=8x16
  [256]=16x16)
declare -A SHAPES_3D=([4]=2x2x1 [8]=2x2x2 [16]=2x2x4 [32]=2x4x4 [64]=4x4x4 [128]=4x4x8
  [256]=4x8x8 [512]=8x8x8 [1024]=8x8x16 [2048]=8x16x16 [4096]=16x16x16 [6144]=16x16x24)

# check_shape: exits with an error unless slices of $chip with $shape exist.
check_shape() {
  local shapes more="" dimensions
  IFS=x read -ra dimensions <<<"$shape"
  case "$chip" in
    v2) shapes=("${SHAPES_V2[@]}") ;;
    v3) shapes=("${SHAPES_V3[@]}") ;;
    v5e | v6e) shapes=("${SHAPES_2D[@]}") ;;
    *)
      shapes=("${SHAPES_3D[@]}")
      more=", or three multiples of 4 in ascending order"
      if [ "${#dimensions[@]}" -eq 3 ]; then
        local a="${dimensions[0]}" b="${dimensions[1]}" c="${dimensions[2]}"
        if ((a <= b && b <= c && a % 4 + b % 4 + c % 4 == 0)); then return; fi
      fi
      ;;
  esac
  if [[ " ${shapes[*]} " != *" $shape "* ]]; then
    die "--tpu=$tpu: no slice of $chip has the shape $shape; use one of $(
      printf '%s\n' "${shapes[@]}" | sort -V | paste -sd ' '
    )$more"
  fi
}

# read_tpu: sets from $tpu, with either name: chip (v5p), shape (4x4x8), accelerator (v5p-256),
# known (the cloud's shape for it), hosts (32), chips_per_host (4), devices (JAX's number, 128),
# gke_accelerator (empty if GKE does not have the chip), and tpu_runtime (the software version
# of TPU VMs, empty if there are none with the chip).
read_tpu() {
  local chips cores=1
  if [[ "$tpu" =~ ^(v2|v3|v4|v5e|v5p|v6e|tpu7x):([1-9][0-9]*(x[1-9][0-9]*){1,2})$ ]]; then
    chip="${BASH_REMATCH[1]}" shape="${BASH_REMATCH[2]}"
    check_shape
    chips=$((${shape//x/*}))
  elif [[ "$tpu" =~ ^(v2|v3|v4|v5litepod|v5p|v6e)-([0-9]+)$ ]]; then
    chip="${BASH_REMATCH[1]/v5litepod/v5e}" chips="${BASH_REMATCH[2]}" shape=""
    [[ "$chip" == v[234] || "$chip" == v5p ]] && chips=$((chips / 2))
  else
    die "--tpu=$tpu is not a TPU slice; use the cloud's name, such as v5p-256, v5litepod-16 or v6e-64, or the shape, such as v5p:4x4x8"
  fi
  case "$chip" in
    v2) known="${SHAPES_V2[$chips]:-}" ;;
    v3) known="${SHAPES_V3[$chips]:-}" ;;
    v5e | v6e) known="${SHAPES_2D[$chips]:-}" ;;
    *) known="${SHAPES_3D[$chips]:-}" ;;
  esac
  shape="${shape:-$known}"
  [ -n "$shape" ] || die "--tpu=$tpu: no slice of $chip has $chips chips; see https://cloud.google.com/tpu/docs for existing slices"
  [[ "$chip" != v[234] && "$chip" != v5p ]] || cores=2
  accelerator="${chip/v5e/v5litepod}-$((chips * cores))"
  # The cloud's name of a chip count means one shape only.
  is_usual_shape="$([ "$shape" != "$known" ] || echo yes)"
  chips_per_host=$((chips < 4 ? chips : 4))
  hosts=$((chips / chips_per_host))
  devices="$chips"
  # Each of the two cores of these chips is a JAX device.
  [[ "$chip" != v[23] && "$chip" != tpu7x ]] || devices=$((2 * chips))
  if [[ "$chip" == v[23] && "${slices:-1}" -gt 1 ]]; then
    die "--slices=$slices: Cloud TPU connects slices of v4 and later, not of $chip; leave --slices out"
  fi
  # https://cloud.google.com/tpu/docs/runtimes
  case "$chip" in
    v5e) tpu_runtime=v2-alpha-tpuv5-lite ;;
    v5p) tpu_runtime=v2-alpha-tpuv5 ;;
    v6e) tpu_runtime=v2-alpha-tpuv6e ;;
    tpu7x) tpu_runtime="" ;;
    *) tpu_runtime=tpu-ubuntu2204-base ;;
  esac
  case "$chip" in
    v2) gke_accelerator="" ;;
    v3) gke_accelerator="$([ "$hosts" -eq 1 ] && echo tpu-v3-device || echo tpu-v3-slice)" ;;
    v4) gke_accelerator=tpu-v4-podslice ;;
    v5e) gke_accelerator=tpu-v5-lite-podslice ;;
    tpu7x) gke_accelerator=tpu7x ;;
    *) gke_accelerator="tpu-$chip-slice" ;;
  esac
}

# need_usual_shape: exits with an error if the cloud's name does not mean the shape.
need_usual_shape() {
  [ "$chip" != tpu7x ] || die "--tpu=$tpu: Ironwood slices are available on GKE only; use launch/gke.sh or launch/xpk.sh"
  [ -n "$is_usual_shape" ] || die "--tpu=$tpu: the cloud gives $accelerator the shape $known; use --tpu=$accelerator for that shape, or launch/gke.sh for this one"
}
