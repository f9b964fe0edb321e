// What the custom operators of onnxruntime have in common on every execution provider: errors, tensors, the attributes
// of a node, and what onnxruntime asks about nodes. The nodes are those of domain "mmfs", MMFS, MMFSImageLists and
// MSDeformAttn, and their forms Dynamic..., whose bodies plugins_trt/onnx_function.py spells out.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "node_shapes.h"
#include "onnxruntime_api.h"

namespace mmfs {

constexpr const char* DOMAIN = "mmfs";

// ---------------------------------------------------------------------------------------------------------------------
// Errors: exceptions on our side, a status on that of onnxruntime

struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws what a call of onnxruntime complains of.
inline void check(ort::Api* api, ort::Status* status) {
    if (status != nullptr) {
        const std::string message = ort::GetErrorMessage::call(api, status);
        ort::ReleaseStatus::call(api, status);
        throw Refused(message);
    }
}

template <typename Function, typename... Arguments>
void call(ort::Api* api, Arguments... arguments) {
    check(api, Function::call(api, arguments...));
}

// Null, or the status that says what went wrong.
template <typename Work>
inline ort::Status* guarded(ort::Api* api, const Work& work) noexcept {
    try {
        work();
        return nullptr;
    } catch (const std::invalid_argument& error) {
        return ort::CreateStatus::call(api, ort::INVALID_ARGUMENT, error.what());
    } catch (const std::bad_alloc&) {
        return ort::CreateStatus::call(api, ort::RUNTIME_EXCEPTION, "mmfs could not get the memory that it works in.");
    } catch (const std::length_error&) {  // more than any vector can hold
        return ort::CreateStatus::call(api, ort::RUNTIME_EXCEPTION, "mmfs could not get the memory that it works in.");
    } catch (const std::exception& error) {
        return ort::CreateStatus::call(api, ort::FAIL, error.what());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensors

struct Tensor {
    const char* name;
    ort::ElementType type;
    Shape shape;
    const void* data;

    int64_t count() const {
        int64_t product = 1;
        for (const int64_t size : shape) {
            product *= size;  // the elements are in memory, so this fits
        }
        return product;
    }
};

inline Shape shape_of(ort::Api* api, const ort::TypeAndShape* info) {
    std::size_t num_axes = 0;
    call<ort::GetDimensionsCount>(api, info, &num_axes);
    Shape shape(num_axes);
    call<ort::GetDimensions>(api, info, shape.data(), num_axes);
    return shape;
}

inline Tensor input(ort::Api* api, const ort::KernelContext* context, std::size_t place, const char* name) {
    const ort::Value* value = nullptr;
    call<ort::KernelContext_GetInput>(api, context, place, &value);
    if (value == nullptr) {
        throw std::invalid_argument(std::string(name) + " is missing. The node needs all of its inputs.");
    }
    ort::TypeAndShape* info = nullptr;
    call<ort::GetTensorTypeAndShape>(api, value, &info);
    const auto release = [api](ort::TypeAndShape* one) { ort::ReleaseTensorTypeAndShapeInfo::call(api, one); };
    const std::unique_ptr<ort::TypeAndShape, decltype(release)> owned(info, release);
    Tensor tensor = {name, ort::UNDEFINED, shape_of(api, info), nullptr};
    call<ort::GetTensorElementType>(api, info, &tensor.type);
    void* data = nullptr;
    call<ort::GetTensorMutableData>(api, const_cast<ort::Value*>(value), &data);
    tensor.data = data;
    return tensor;
}

inline std::string number_of(ort::ElementType type) { return std::to_string(static_cast<int>(type)); }

// ---------------------------------------------------------------------------------------------------------------------
// A node of a session

class NodeKernel {
   public:
    NodeKernel(const NodeKind& kind, ort::Api* api, const ort::KernelInfo* info) : api_(api), kind_(kind) {
        if (!kind.has(Input::SPATIAL_SHAPES)) {
            std::size_t count = 0;
            call<ort::KernelInfoGetAttributeArray_int64>(api, info, "spatial_shapes", nullptr, &count);
            spatial_shapes_.resize(count);
            call<ort::KernelInfoGetAttributeArray_int64>(api, info, "spatial_shapes", spatial_shapes_.data(), &count);
        }
        if (kind.has_images()) {
            // As in the body of the function: both may be left out.
            int64_t use_null = 1;
            float null_logit = 0.0f;
            optional<ort::KernelInfoGetAttribute_int64>(info, "use_null", &use_null);
            optional<ort::KernelInfoGetAttribute_float>(info, "null_logit", &null_logit);
            has_null_ = use_null != 0;
            null_logit_ = has_null_ ? null_logit : 0.0f;
        }
    }
    NodeKernel(const NodeKernel&) = delete;
    NodeKernel& operator=(const NodeKernel&) = delete;
    virtual ~NodeKernel() = default;

    // Several threads may call it at once.
    virtual void compute(ort::KernelContext* context) = 0;

    ort::Api* api() const { return api_; }

   protected:
    std::vector<Tensor> inputs(const ort::KernelContext* context) const {
        std::vector<Tensor> tensors;
        for (std::size_t i = 0; i < kind_.inputs.size(); ++i) {
            tensors.push_back(input(api_, context, i, name_of(kind_.inputs[i])));
        }
        return tensors;
    }

    // The memory of the output [B, Q, H*D].
    void* output(ort::KernelContext* context, int64_t batch, int64_t num_queries, const Shape& of_value) const {
        int64_t channels;
        if (__builtin_mul_overflow(of_value[2], of_value[3], &channels)) {
            throw std::invalid_argument("value has too many heads and channels: " + text_of(of_value) + ".");
        }
        const Shape shape = {batch, num_queries, channels};
        ort::Value* value = nullptr;
        call<ort::KernelContext_GetOutput>(api_, context, std::size_t{0}, shape.data(), shape.size(), &value);
        void* data = nullptr;
        call<ort::GetTensorMutableData>(api_, value, &data);
        return data;
    }

    ort::Api* api_;
    const NodeKind& kind_;
    Shape spatial_shapes_;  // of a node that has them as an attribute
    bool has_null_ = false;
    float null_logit_ = 0.0f;

   private:
    // An attribute that stays as it is where the node does not have it.
    template <typename Function, typename T>
    void optional(const ort::KernelInfo* info, const char* name, T* value) {
        T found;
        ort::Status* status = Function::call(api_, info, name, &found);
        if (status == nullptr) {
            *value = found;
        } else {
            ort::ReleaseStatus::call(api_, status);
        }
    }
};

inline std::vector<Shape> shapes_of(const std::vector<Tensor>& tensors) {
    std::vector<Shape> shapes;
    for (const Tensor& tensor : tensors) {
        shapes.push_back(tensor.shape);
    }
    return shapes;
}

// ---------------------------------------------------------------------------------------------------------------------
// What onnxruntime asks about the nodes

// A node on an execution provider.
struct Operator : ort::CustomOp {
    const NodeKind* kind;
    ort::Api* api;
    const char* execution_provider;
    NodeKernel* (*make_kernel)(const NodeKind&, ort::Api*, const ort::KernelInfo*);  // the caller owns it
};

inline const Operator& own(const ort::CustomOp* op) { return *static_cast<const Operator*>(op); }

// [B, Q, H*D], with the type of value and the names that the graph gives to B and Q.
inline void infer_output(ort::Api* api, const NodeKind& kind, const ort::ShapeInferContext* context) {
    ort::TypeAndShape *value = nullptr, *weights = nullptr;
    call<ort::ShapeInferContext_GetInputTypeShape>(api, context, kind.place(Input::VALUE), &value);
    call<ort::ShapeInferContext_GetInputTypeShape>(api, context, kind.place(kind.weights), &weights);
    const Shape of_value = shape_of(api, value), of_weights = shape_of(api, weights);
    Shape out = {-1, -1, -1};
    const char* names[3] = {"", "", ""};
    if (of_weights.size() == 5) {
        const char* of_axes[5];
        call<ort::GetSymbolicDimensions>(api, weights, static_cast<const char**>(of_axes), std::size_t{5});
        std::copy_n(of_weights.begin(), 2, out.begin());
        std::copy_n(of_axes, 2, names);
    }
    int64_t channels;
    if (of_value.size() == 4 && of_value[2] >= 0 && of_value[3] >= 0 &&
        !__builtin_mul_overflow(of_value[2], of_value[3], &channels)) {
        out[2] = channels;
    }
    // An axis without a length needs a name, and one that no other axis has: equal names are equal lengths.
    static std::atomic<int64_t> num_unknown{0};
    std::string own_names[3];
    for (int axis = 0; axis < 3; ++axis) {
        if (out[static_cast<std::size_t>(axis)] < 0 && names[axis][0] == '\0') {
            own_names[axis] = "mmfs_axis_" + std::to_string(num_unknown++);
            names[axis] = own_names[axis].c_str();
        }
    }
    ort::ElementType type = ort::UNDEFINED;
    call<ort::GetTensorElementType>(api, value, &type);
    ort::TypeAndShape* info = nullptr;
    call<ort::CreateTensorTypeAndShapeInfo>(api, &info);
    const auto release = [api](ort::TypeAndShape* one) { ort::ReleaseTensorTypeAndShapeInfo::call(api, one); };
    const std::unique_ptr<ort::TypeAndShape, decltype(release)> owned(info, release);
    call<ort::SetTensorElementType>(api, info, type);
    call<ort::SetDimensions>(api, info, out.data(), out.size());
    call<ort::SetSymbolicDimensions>(api, info, static_cast<const char**>(names), out.size());
    call<ort::ShapeInferContext_SetOutputTypeShape>(api, context, std::size_t{0}, info);
}

template <typename Kernel>
Operator operator_of(const NodeKind& kind, ort::Api* api, const char* execution_provider) {
    Operator op{};
    op.kind = &kind;
    op.api = api;
    op.execution_provider = execution_provider;
    op.make_kernel = [](const NodeKind& of, ort::Api* given, const ort::KernelInfo* info) -> NodeKernel* {
        return new Kernel(of, given, info);
    };
    op.version = ort::API_VERSION;
    op.get_name = [](const ort::CustomOp* self) { return own(self).kind->name; };
    op.get_execution_provider_type = [](const ort::CustomOp* self) { return own(self).execution_provider; };
    // Undefined: of any type. Which ones they may have is checked when the node is computed, with a sentence.
    op.get_input_type = [](const ort::CustomOp*, std::size_t) { return ort::UNDEFINED; };
    op.get_input_type_count = [](const ort::CustomOp* self) { return own(self).kind->inputs.size(); };
    op.get_output_type = [](const ort::CustomOp*, std::size_t) { return ort::UNDEFINED; };
    op.get_output_type_count = [](const ort::CustomOp*) { return std::size_t{1}; };
    op.kernel_destroy = [](void* kernel) { delete static_cast<NodeKernel*>(kernel); };
    op.get_input_characteristic = [](const ort::CustomOp*, std::size_t) { return 0; };  // required
    op.get_output_characteristic = [](const ort::CustomOp*, std::size_t) { return 0; };
    // The host reads sizes.
    op.get_input_memory_type = [](const ort::CustomOp* self, std::size_t place) {
        return own(self).kind->place(Input::SPATIAL_SHAPES) == place ? ort::CPU_INPUT : ort::DEFAULT_MEMORY;
    };
    op.get_variadic_input_min_arity = [](const ort::CustomOp*) { return 0; };
    op.get_variadic_input_homogeneity = [](const ort::CustomOp*) { return 0; };
    op.get_variadic_output_min_arity = [](const ort::CustomOp*) { return 0; };
    op.get_variadic_output_homogeneity = [](const ort::CustomOp*) { return 0; };
    op.create_kernel_v2 = [](const ort::CustomOp* self, ort::Api* given, const ort::KernelInfo* info, void** kernel) {
        return guarded(given, [&] { *kernel = own(self).make_kernel(*own(self).kind, given, info); });
    };
    op.kernel_compute_v2 = [](void* kernel, ort::KernelContext* context) {
        NodeKernel& node = *static_cast<NodeKernel*>(kernel);
        return guarded(node.api(), [&] { node.compute(context); });
    };
    op.infer_output_shape = [](const ort::CustomOp* self, ort::ShapeInferContext* context) {
        return guarded(own(self).api, [&] { infer_output(own(self).api, *own(self).kind, context); });
    };
    op.get_start_version = [](const ort::CustomOp*) { return 1; };
    op.get_end_version = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
    return op;
}

// The nodes as one onnxruntime knows them. They stay as long as the process, since sessions point at them.
class Domain {
   public:
    explicit Domain(ort::Api* api) : api_(api) { call<ort::CreateCustomOpDomain>(api, DOMAIN, &domain_); }

    // All nodes on an execution provider.
    template <typename Kernel>
    void add(const char* execution_provider) {
        for (const NodeKind& kind : node_kinds()) {
            operators_.push_back(std::make_unique<Operator>(operator_of<Kernel>(kind, api_, execution_provider)));
            call<ort::CustomOpDomain_Add>(api_, domain_, static_cast<const ort::CustomOp*>(operators_.back().get()));
        }
    }

    ort::CustomOpDomain* get() const { return domain_; }

   private:
    ort::Api* api_;
    ort::CustomOpDomain* domain_ = nullptr;
    std::vector<std::unique_ptr<Operator>> operators_;
};

}  // namespace mmfs
