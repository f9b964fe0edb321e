// mmfs's kernels as machine code for some architectures, as plans carry it: compressed by zlib, by name
// "kernel@architecture". The same fields as machine_code.py writes and reads, so that a plan may be built by one
// plugin kind and run by the other.

#pragma once

#include <string>
#include <vector>

#include "cuda_driver.h"

namespace mmfs::cuda {

struct PackedImage {
    std::string name;  // kernel@architecture
    std::string data;

    std::string kernel() const { return name.substr(0, name.find('@')); }
    std::string architecture() const { return name.substr(name.find('@') + 1); }

    // A CUBIN, or PTX. Throws std::runtime_error if it is damaged.
    std::string inflated() const;
};

struct MachineCode {
    std::vector<PackedImage> images;

    // The image for a GPU of this compute capability: machine code for the same major and an equal or earlier minor
    // capability, else PTX of an earlier one. Throws std::runtime_error if nothing here runs on it.
    const PackedImage& for_gpu(const std::string& kernel, int major, int minor) const;

    // for_gpu, for a driver; *this has to outlive it.
    FindImage finder() const;
};

// The images that `python -m plugins_trt.embed` put into this library for these kernels, in their order. Throws
// std::runtime_error if one is missing.
MachineCode embedded(const std::vector<std::string>& kernels);

}  // namespace mmfs::cuda
