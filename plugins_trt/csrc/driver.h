// The CUDA driver: the few functions that load a kernel and launch it. It is opened when the first kernel is launched,
// so this library loads on machines without one, where engines are built.
//
// Everything happens in the current context, which the caller has made.

#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "launch.h"
#include "machine_code.h"

namespace mmfs {

class Driver {
public:
    // library: file name. Throws std::runtime_error if it cannot be loaded; run() throws it if the driver refuses.
    explicit Driver(const std::string& library);

    // One call of a node, on a stream (CUstream); arguments as of launches().
    void run(const Node& node, const MachineCode& code, const std::vector<Shape>& shapes,
             const std::vector<Address>& inputs, Address output, void* workspace, void* stream);

private:
    struct Gpu {
        int num_sms, major, minor;
        std::map<std::string, void*> kernels;  // CUfunction, by packed image; they stay loaded
    };

    template <typename... Parameters>
    void call(const char* function, Parameters... parameters);

    void* symbol(const char* function);
    Gpu& current_gpu();
    void* kernel(Gpu& gpu, const PackedImage& packed);

    void* library_;
    std::mutex mutex_;  // TensorRT may run contexts in several threads
    std::map<void*, Gpu> gpus_;  // by CUcontext
};

// The driver of this machine.
Driver& driver();

}  // namespace mmfs
