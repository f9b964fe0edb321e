// Tensors of Python as the structures of a call, read where they are: the C exchange API of DLPack (version 1), which
// torch.Tensor.__dlpack_c_exchange_api__ gives. Needs no header of Python or PyTorch, and allocates nothing.
//
// Only the plain case is read: arrays that a kernel can take as they are, whose shapes fit each other. Everything else
// is said to be no such call, and the caller then converts the arguments or says what is wrong with them.

#pragma once

#include <cstdint>
#include <initializer_list>

namespace mmfs {

// DLTensor of DLPack.
struct ExchangedTensor {
    void* data;
    int32_t device_type;
    int32_t device_index;
    int32_t num_axes;
    uint8_t kind;
    uint8_t bits;
    uint16_t lanes;
    int64_t* shape;
    int64_t* strides;  // in elements
    uint64_t first_byte;
};

// dltensor_from_py_object_no_sync of DLPack: 0 if the tensor could be described, else Python has an exception.
using DescribeTensor = int32_t (*)(void* tensor, ExchangedTensor* described);

constexpr int32_t CPU_DEVICE = 1;
constexpr uint8_t INTEGER_KIND = 0, FLOAT_KIND = 2, BFLOAT_KIND = 4;
constexpr uintptr_t LARGEST_ELEMENT = 8;  // bytes: an address that is a multiple of it suits every type

struct ElementType {
    uint8_t kind;
    uint8_t bits;
};

inline bool operator==(ElementType one, ElementType other) { return one.kind == other.kind && one.bits == other.bits; }

constexpr ElementType INT64_TYPE = {INTEGER_KIND, 64};

inline ElementType type_of(const ExchangedTensor& tensor) { return {tensor.kind, tensor.bits}; }

// Whether the tensor is an array that a kernel reads as it is: on the CPU, contiguous, aligned, and not empty.
inline bool is_array(const ExchangedTensor& tensor) {
    if (tensor.device_type != CPU_DEVICE || tensor.lanes != 1 || tensor.data == nullptr) {
        return false;
    }
    int64_t stride = 1;
    for (int32_t axis = tensor.num_axes - 1; axis >= 0; --axis) {
        const int64_t size = tensor.shape[axis];
        if (size < 1 || (size != 1 && tensor.strides[axis] != stride)) {
            return false;
        }
        stride *= size;
    }
    return (reinterpret_cast<uintptr_t>(tensor.data) + tensor.first_byte) % LARGEST_ELEMENT == 0;
}

inline bool has_shape(const ExchangedTensor& tensor, std::initializer_list<int64_t> shape) {
    if (tensor.num_axes != static_cast<int32_t>(shape.size())) {
        return false;
    }
    const int64_t* size = tensor.shape;
    for (const int64_t expected : shape) {
        if (*size++ != expected) {
            return false;
        }
    }
    return true;
}

// Whether a tensor broadcasts to this shape without a number being repeated: axes of one are left out at most.
inline bool fills_shape(const ExchangedTensor& tensor, std::initializer_list<int64_t> shape) {
    int64_t left_out = static_cast<int64_t>(shape.size()) - tensor.num_axes;
    if (left_out < 0) {
        return false;
    }
    const int64_t* size = tensor.shape;
    for (const int64_t expected : shape) {
        if (left_out > 0 ? expected != 1 : *size++ != expected) {
            return false;
        }
        --left_out;
    }
    return true;
}

// Reads the tensors of one call one after another; once one of them is not as expected, nothing is.
class TensorReader {
   public:
    // none: what stands for a tensor that is not given.
    TensorReader(DescribeTensor describe, const void* none) : describe_(describe), none_(none) {}

    // The described tensor, valid while nothing is run that could change it; null where it is not given, or not plain.
    const ExchangedTensor* array(void* tensor, ExchangedTensor& described) {
        if (tensor == none_ || !is_plain) {
            return nullptr;
        }
        is_plain = describe_(tensor, &described) == 0 && is_array(described);
        return is_plain ? &described : nullptr;
    }

    // The data of a tensor of this type and shape.
    void* data(void* tensor, ElementType type, std::initializer_list<int64_t> shape) {
        ExchangedTensor described{};
        if (array(tensor, described) == nullptr) {
            return nullptr;
        }
        is_plain = type_of(described) == type && has_shape(described, shape);
        return is_plain ? first(described) : nullptr;
    }

    // The data of a table [A, ...of_one_age] of this type, and A; 0 where it is not given.
    template <typename... Sizes>
    void* table(void* tensor, ElementType type, int64_t& num_ages, Sizes... of_one_age) {
        ExchangedTensor described{};
        num_ages = 0;
        if (array(tensor, described) == nullptr) {
            return nullptr;
        }
        is_plain = type_of(described) == type && described.num_axes > 0 &&
                   has_shape(described, {described.shape[0], of_one_age...});
        num_ages = is_plain ? described.shape[0] : 0;
        return is_plain ? first(described) : nullptr;
    }

    static void* first(const ExchangedTensor& tensor) { return static_cast<char*>(tensor.data) + tensor.first_byte; }

    bool is_plain = true;

   private:
    DescribeTensor describe_;
    const void* none_;
};

}  // namespace mmfs
