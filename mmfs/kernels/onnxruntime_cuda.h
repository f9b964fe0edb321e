// The nodes on onnxruntime's CUDA execution provider, with the CUDA kernels of PyTorch's calls: launched through the
// CUDA driver, on the stream of the session, in the context that the execution provider has made current.
//
// Their machine code is compiled when a node first needs it, by NVRTC: mmfs/onnxruntime.py gives a function for it.

#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_driver.h"
#include "cuda_launch.h"
#include "cuda_node.h"
#include "onnxruntime_nodes.h"

namespace mmfs {

inline cuda::Type cuda_type_of(ort::ElementType type) {
    switch (type) {
        case ort::FLOAT:
            return cuda::Type::FLOAT32;
        case ort::HALF:
            return cuda::Type::FLOAT16;
        case ort::BFLOAT:
            return cuda::Type::BFLOAT16;
        case ort::INT64:
            return cuda::Type::INT64;
        default:
            return cuda::Type::OTHER;
    }
}

// Host: static functions driver(), which returns a cuda::Driver&, and image(kernel, major, minor), a cuda::FindImage.
template <typename Host>
class CudaKernel : public NodeKernel {
   public:
    CudaKernel(const NodeKind& kind, ort::Api* api, const ort::KernelInfo* info)
        : NodeKernel(kind, api, info),
          op_(!kind.has_images()                ? cuda::MS_DEFORM_ATTN
              : kind.has(Input::IMAGE_INDICES) ? cuda::MMFS_IMAGE_LISTS
                                               : cuda::MMFS) {
        call<ort::KernelInfoGetAllocator>(api, info, ort::DEFAULT_MEMORY, &allocator_);
    }

    ~CudaKernel() override {
        for (void* workspace : allocated_) {
            if (ort::Status* status = ort::AllocatorFree::call(api_, allocator_, workspace)) {
                ort::ReleaseStatus::call(api_, status);
            }
        }
        ort::ReleaseAllocator::call(api_, allocator_);
    }

    void compute(ort::KernelContext* context) override {
        std::vector<Tensor> tensors = inputs(context);
        const cuda::Node node(op_, spatial_shapes(tensors), has_null_, null_logit_);
        tensors.resize(op_.inputs.size());  // the sizes, if they are an input, come last
        std::vector<cuda::Shape> shapes;
        std::vector<cuda::Address> addresses;
        std::vector<cuda::Type> types;
        for (const Tensor& tensor : tensors) {
            shapes.emplace_back(tensor.shape.begin(), tensor.shape.end());
            types.push_back(cuda_type_of(tensor.type));
            addresses.push_back({reinterpret_cast<std::uintptr_t>(tensor.data), types.back()});
            check_type(tensor, types);
        }
        const cuda::Sizes sizes = cuda::sizes_of(node, shapes);
        void* out = output(context, sizes.batch, sizes.num_queries, tensors[0].shape);
        void* stream = nullptr;
        call<ort::KernelContext_GetGPUComputeStream>(api_, context, &stream);
        void* workspace = nullptr;
        if (cuda::workspace_bytes(node, shapes, types[0]) > 0) {
            workspace = workspace_of(stream, cuda::most_workspace_bytes(sizes.num_channels, types[0]));
        }
        const cuda::Address output = {reinterpret_cast<std::uintptr_t>(out), types[0]};
        Host::driver().run(node, &Host::image, shapes, addresses, output, workspace, stream);
    }

   private:
    struct Workspace {
        void* data = nullptr;
        int64_t num_bytes = 0;
    };

    // Of the levels, height and width in turn. An input of sizes is in the host's memory.
    cuda::Shape spatial_shapes(const std::vector<Tensor>& tensors) const {
        if (!kind_.has(Input::SPATIAL_SHAPES)) {
            return {spatial_shapes_.begin(), spatial_shapes_.end()};
        }
        const Tensor& sizes = tensors[kind_.place(Input::SPATIAL_SHAPES)];
        if (sizes.type != ort::INT64 || sizes.shape.size() != 2 || sizes.shape[1] != 2) {
            throw std::invalid_argument(
                "spatial_shapes of " + std::string(kind_.name) + " has the shape " + text_of(sizes.shape) +
                " and elements of ONNX type " + number_of(sizes.type) + ". Expected int64 [levels, 2]."
            );
        }
        const auto* numbers = static_cast<const int64_t*>(sizes.data);
        return {numbers, numbers + sizes.count()};
    }

    // types: of the inputs up to this one.
    void check_type(const Tensor& tensor, const std::vector<cuda::Type>& types) const {
        const std::size_t place = types.size() - 1;
        if (!cuda::takes_type(op_, place, types)) {
            const Input input = kind_.inputs[place];
            const bool whole = input == Input::VISIBLE || input == Input::IMAGE_INDICES;
            throw std::invalid_argument(
                std::string(tensor.name) + " has elements of ONNX type " + number_of(tensor.type) + ". Expected " +
                (whole ? "int64" : "float32, float16 or bfloat16") +
                " on the CUDA execution provider. Convert it, or give the session the CPU's alone."
            );
        }
    }

    // Memory that stays with its stream: what is launched there runs one after the other, so calls of several threads
    // and of later runs can share it. Memory that were given back after each launch might go to another stream while
    // the kernel still writes to it.
    void* workspace_of(void* stream, int64_t num_bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        Workspace& kept = workspaces_[stream];
        if (kept.num_bytes < num_bytes) {
            void* data = nullptr;
            call<ort::AllocatorAlloc>(api_, allocator_, static_cast<std::size_t>(num_bytes), &data);
            allocated_.push_back(data);
            kept = {data, num_bytes};
        }
        return kept.data;
    }

    const cuda::Operator& op_;
    ort::Allocator* allocator_ = nullptr;
    std::mutex mutex_;
    std::map<void*, Workspace> workspaces_;  // by CUstream
    std::vector<void*> allocated_;           // a launch may still use what a larger one has replaced
};

}  // namespace mmfs
