// The CUDA driver: the few functions that load a kernel and launch it. It is opened when the first kernel is launched,
// so a library with this in it loads on machines without one, where engines are built.
//
// Everything happens in the current context, which the caller has made.

#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "cuda_launch.h"

namespace mmfs::cuda {

// A CUBIN, or PTX.
struct Image {
    std::string_view key;  // that no other image has, in this process
    std::function<std::string()> bytes;
};

// The image of a kernel for a compute capability, major and minor. Throws if there is none.
using FindImage = std::function<Image(const std::string& kernel, int major, int minor)>;

class Driver {
public:
    // library: file name. Throws std::runtime_error if it cannot be loaded; run() throws it if the driver refuses.
    explicit Driver(const std::string& library);

    // One call of a node, on a stream (CUstream); arguments as of launches(). No launch of another call comes between
    // those of this one: calls on one stream may share a workspace.
    void run(const Node& node, const FindImage& find_image, const std::vector<Shape>& shapes,
             const std::vector<Address>& inputs, Address output, void* workspace, void* stream);

private:
    struct Gpu {
        int num_sms, major, minor;
        std::map<std::string, void*, std::less<>> kernels;  // CUfunction, by key of the image; they stay loaded
    };

    template <typename... Parameters>
    void call(const char* function, Parameters... parameters);

    void* symbol(const char* function);
    Gpu& current_gpu();
    void* kernel(Gpu& gpu, const std::string& name, const Image& image);

    void* library_;
    std::mutex mutex_;  // a runtime may call nodes in several threads
    std::map<void*, Gpu> gpus_;  // by CUcontext
};

// The driver of this machine.
Driver& driver();

}  // namespace mmfs::cuda
