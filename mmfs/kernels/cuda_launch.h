// A call of an mmfs node as launches of mmfs's kernels: which, with how many threads, with which arguments. It does
// the same as plugins_trt/launches.py and the part of mmfs/kernels/plan.py that it uses; tests/plugins_trt compares them byte by
// byte. It uses no GPU and does not depend on TensorRT.

#pragma once

#include <array>
#include <cstdint>

#include "cuda_node.h"

namespace mmfs::cuda {

// Where a contiguous tensor is.
struct Address {
    std::uintptr_t pointer;
    Type type;
};

struct Launch {
    std::string kernel;  // name of its entry point
    std::array<unsigned, 3> grid;
    unsigned threads;  // of a block
    unsigned shared_bytes;
    Arguments arguments;
};

// The names of all kernels that a call of this node may launch, for values [..., num_channels] of this type.
std::vector<std::string> kernels_of(const Node& node, int64 num_channels, Type type);

// Scratch memory that suffices for inputs of these shapes or smaller ones, on any GPU. type: of value.
int64 workspace_bytes(const Node& node, const std::vector<Shape>& shapes, Type type);

// Scratch memory that suffices for any call with such values.
int64 most_workspace_bytes(int64 num_channels, Type type);

// The launches of one call, in order; none if there is nothing to write. num_sms: of the GPU.
std::vector<Launch> launches(const Node& node, const std::vector<Shape>& shapes, const std::vector<Address>& inputs,
                             Address output, std::uintptr_t workspace, int64 num_sms);

}  // namespace mmfs::cuda
