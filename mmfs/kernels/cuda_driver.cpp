#include "cuda_driver.h"

#include <dlfcn.h>

#include <stdexcept>

namespace mmfs::cuda {

namespace {

// Of enum CUdevice_attribute.
constexpr int NUM_SMS = 16;
constexpr int CAPABILITY_MAJOR = 75;
constexpr int CAPABILITY_MINOR = 76;

}  // namespace

Driver::Driver(const std::string& library) : library_(dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) {
        throw std::runtime_error("The CUDA driver " + library + " cannot be loaded (" + dlerror() +
                                 "). Expected an NVIDIA GPU and driver.");
    }
}

void* Driver::symbol(const char* function) {
    void* found = dlsym(library_, function);
    if (found == nullptr) throw std::runtime_error(std::string("The CUDA driver has no function ") + function + ".");
    return found;
}

template <typename... Parameters>
void Driver::call(const char* function, Parameters... parameters) {
    const int status = reinterpret_cast<int (*)(Parameters...)>(symbol(function))(parameters...);
    if (status == 0) return;
    const char* words = nullptr;
    reinterpret_cast<int (*)(int, const char**)>(symbol("cuGetErrorString"))(status, &words);
    throw std::runtime_error(std::string(function) + " failed: " + (words ? words : "unknown error") + " (" +
                             std::to_string(status) + ").");
}

Driver::Gpu& Driver::current_gpu() {
    void* context = nullptr;
    call("cuCtxGetCurrent", &context);
    if (context == nullptr) {
        throw std::runtime_error("No CUDA context is current. Expected to be called by a runtime that has made one.");
    }
    const auto known = gpus_.find(context);
    if (known != gpus_.end()) return known->second;
    int device = 0;
    call("cuCtxGetDevice", &device);
    const auto attribute = [&](int number) {
        int value = 0;
        call("cuDeviceGetAttribute", &value, number, device);
        return value;
    };
    return gpus_[context] = {attribute(NUM_SMS), attribute(CAPABILITY_MAJOR), attribute(CAPABILITY_MINOR), {}};
}

void* Driver::kernel(Gpu& gpu, const std::string& name, const Image& image) {
    const auto known = gpu.kernels.find(image.key);
    if (known != gpu.kernels.end()) return known->second;
    const std::string bytes = image.bytes();
    void *module = nullptr, *function = nullptr;
    call("cuModuleLoadData", &module, static_cast<const void*>(bytes.c_str()));
    call("cuModuleGetFunction", &function, module, name.c_str());
    return gpu.kernels[std::string(image.key)] = function;
}

void Driver::run(const Node& node, const FindImage& find_image, const std::vector<Shape>& shapes,
                 const std::vector<Address>& inputs, Address output, void* workspace, void* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Gpu& gpu = current_gpu();
    const auto scratch = reinterpret_cast<std::uintptr_t>(workspace);
    for (Launch& launch : launches(node, shapes, inputs, output, scratch, gpu.num_sms)) {
        void* function = kernel(gpu, launch.kernel, find_image(launch.kernel, gpu.major, gpu.minor));
        void* parameters[] = {&launch.arguments};  // the driver copies what they point to before it returns
        const auto& [x, y, z] = launch.grid;
        call("cuLaunchKernel", function, x, y, z, launch.threads, 1u, 1u, launch.shared_bytes, stream,
             static_cast<void**>(parameters), static_cast<void**>(nullptr));
    }
}

Driver& driver() {
    static Driver of_this_machine("libcuda.so.1");
    return of_this_machine;
}

}  // namespace mmfs::cuda
