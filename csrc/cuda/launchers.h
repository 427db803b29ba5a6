// The kernels as the host calls them. Defined beside each kernel, compiled for the dtypes in instantiations/. No
// headers of CUDA or torch, so that the host side compiles, and runs under emulation, without CUDA.
#pragma once

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "../params.h"

namespace gru_ext {

using Stream = void*;  // a cudaStream_t

// gru_step.cuh, gru_step_reset_before.cuh. Each returns null, or what went wrong with the launch.
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream);

// gru_one_step.cuh
template <typename scalar_t>
const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<scalar_t>& p, Stream stream);

// gru_step_layer_norm.cuh
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t>
const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<scalar_t>& p, Stream stream);

// How a group of a streamed kernel shares out a layer, see gru_streamed.cuh.
struct StreamedShape {
  int blocks;                           // of the group
  int slabs;                            // of the operand
  int shared_slabs;                     // of the weights of a slice, those that stay in shared memory
  int shared_bytes;                     // of a block; 0 where there is too little
  int64_t operand_bytes, weight_bytes;  // in global memory: both buffers; weights that are read again every step
};

// What `resident` is where it is no number of clusters: the kernel is not in the code that the device runs; or there is
// no memory left to load it, which may be different later.
constexpr int kNotCompiled = -1, kNoMemoryNow = -2;

// What went wrong with a launch for which there was no memory left.
constexpr char kOutOfMemory[] = "out of memory";
inline bool is_out_of_memory(const char* error) { return std::strcmp(error, kOutOfMemory) == 0; }

// An instantiation of a cluster-persistent, group-persistent or streamed kernel, see gru_cluster_configs.h and
// gru_streamed_configs.h. A group is as many blocks of the grid as a launch has the device run at the same time; here
// "cluster" means either.
struct ClusterKernel {
  bool ieee;           // float32 on the FMA units; else the tensor core
  int hidden;          // the largest H; of a streamed kernel the device sets it
  int blocks;          // of a cluster; not used of a streamed kernel
  int rows;            // of a tile of the batch
  int overflow_bytes;  // of its weights in shared memory, which a block reads for every 16 rows of a step (ieee: 8)
  int packet_bytes;    // in global memory, by which a group exchanges; 0 for a cluster
  int (*resident)();   // how many clusters, or blocks of a streamed kernel, the current device runs at a time. Asking
                       // loads all that a launch needs.
  int units = 0;       // of a block of a streamed kernel; 0 for the others
  StreamedShape (*shape)(int H) = nullptr;  // of a streamed kernel, on the current device
  bool masks = false;                       // whether it is for layers with masks, and for no others
};

template <typename Parameters>
struct GruClusterKernel : ClusterKernel {
  const char* (*launch)(const Parameters& p, Stream stream);  // null, or what went wrong with the launch
};

// gru_cluster_fwd.cuh, gru_cluster_bwd.cuh, gru_group_bwd.cuh, gru_streamed_fwd.cuh, gru_streamed_bwd.cuh, for
// bfloat16, float16 and float, which is multiplied in TF32. Of clusters and groups the smallest `hidden` first.
template <typename scalar_t>
const std::vector<GruClusterKernel<GruClusterFwdParams<scalar_t>>>& gru_cluster_fwd_kernels();
template <typename scalar_t>
const std::vector<GruClusterKernel<GruClusterBwdParams<scalar_t>>>& gru_cluster_bwd_kernels();
template <typename scalar_t>
const std::vector<GruClusterKernel<GruClusterFwdParams<scalar_t>>>& gru_streamed_fwd_kernels();
template <typename scalar_t>
const std::vector<GruClusterKernel<GruClusterBwdParams<scalar_t>>>& gru_streamed_bwd_kernels();
// Those of clusters and groups for float, multiplied as it is.
const std::vector<GruClusterKernel<GruClusterFwdParams<float>>>& gru_cluster_fwd_ieee_kernels();
const std::vector<GruClusterKernel<GruClusterBwdParams<float>>>& gru_cluster_bwd_ieee_kernels();

// device.cu: what the host asks of the current device.

std::string device_name();
// Cycles of its multiprocessors a second; 0 if it does not tell.
double clock_rate();
// Whether it has products in bfloat16: sm_80 and later.
bool multiplies_bfloat16();
// Whether launches on the stream are recorded into a CUDA graph.
bool is_capturing(Stream stream);
// Time that the stream takes for `work`, which the host gives it at every call: the least of five, after a first one
// that is not counted. Waits for the stream. NaN if it cannot be told.
double measure_seconds(Stream stream, const std::function<void()>& work);
// A word of the host's memory that kernels of this device may write to, zero at first. `host` is null if there is none.
struct SharedWord {
  volatile int* host;
  int* device;  // the same, as the device names it
};
SharedWord new_shared_word();

}  // namespace gru_ext
