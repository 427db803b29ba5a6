// What the choice knows of a family of kernels: its name, which calls its kernels can serve and how fast, and how they
// are run. Every family is a folder that implements this; families.cpp names them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "cuda/choice/time_model.h"
#include "cuda/device.h"
#include "op/check.h"
#include "op/layer.h"

namespace gru_ext {

// What a choice depends on; letters as in op/layer.h.
struct KernelQuery {
  Pass pass;
  at::ScalarType dtype;
  int64_t T, B, H, D;
  bool packed;
  bool masked;          // whether the layer has masks, and is plain otherwise
  bool keeps_gates;     // forward: whether it saves them; backward: whether they were saved
  bool capturing;       // whether the launches are recorded into a CUDA graph
  int64_t members = 1;  // such layers in one call (op/members.h)
};

// A call of an operator, checked: on the current device, of which `stream` is the current one. Where it has members,
// all tensors of `layer` have them too. `error`: a word of the device that becomes 1 where a wait inside a kernel takes
// too long, and results are then undefined; null for the device's own, of which the next call of an operator is told.
struct FwdCall {
  const Sequence& s;
  const Layer& layer;
  bool save_gates, save_y;
  Stream stream = nullptr;
  int* error = nullptr;

  bool has_gates() const { return save_gates; }
};
struct BwdCall : Backward {
  const Sequence& s;
  Stream stream = nullptr;
  int* error = nullptr;

  bool has_gates() const { return were_saved(s.members > 0 ? gates.select(0, 0) : gates); }
};

inline Pass pass_of(const FwdCall&) { return Pass::forward; }
inline Pass pass_of(const BwdCall&) { return Pass::backward; }

class Family;
class Kernel;

// How a kernel would serve a call on the current device.
struct Candidate {
  const Kernel* kernel;
  double seconds;     // by the time model, without W x; infinite where only a measurement can speak for it
  int at_a_time = 0;  // of the clusters or groups that the call needs
};

// Why no kernel of several can serve: what went wrong with one of them, else what was said last.
class WhyNot {
 public:
  void say(std::string words) {
    if (!is_fault_) words_ = std::move(words);
  }
  void say_if_nothing_else(std::string words) {
    if (words_.empty()) words_ = std::move(words);
  }
  void say_fault(std::string words) {
    if (!is_fault_) words_ = std::move(words);
    is_fault_ = true;
  }
  const std::string& words() const { return words_; }

 private:
  std::string words_;
  bool is_fault_ = false;
};

// What a kernel is tested with before it serves: sizes at which a fault of its own kind would show.
struct TestSize {
  int64_t B, H;
  bool masks;
};

// A kernel of one pass and dtype, or all that a family has for it.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual const Family& family() const = 0;
  virtual std::string name() const = 0;

  // Results as the operators return them; none if the kernel could not be launched: `error` then tells why. A kernel
  // has the one of its pass.
  virtual std::optional<FwdResult> run(const FwdCall& call, const char*& error) const;
  virtual std::optional<BwdResult> run(const BwdCall& call, const char*& error) const;

  // Whether it runs the members of a call as one.
  virtual bool takes_members() const { return false; }

  // Whether it is compared with the stepwise kernels before it serves on a device, and with which sizes. Throws
  // OutOfMemoryError where there is not the memory to load the kernel.
  virtual bool is_tested_first() const { return false; }
  virtual TestSize test_size() const { return {}; }

  // For cuda_kernel: why it was chosen, and how it serves.
  virtual std::string why(const KernelQuery& query, const Candidate& candidate) const;
  virtual std::string how(const KernelQuery&, const Candidate&) const { return ""; }
};

class Family {
 public:
  virtual ~Family() = default;
  virtual const char* name() const = 0;
  virtual std::vector<const Kernel*> kernels(Pass pass, at::ScalarType dtype) const = 0;

  // Those of its kernels that are asked for (see is_asked_for) and can serve, in any order; `why_not` learns why there
  // are none.
  virtual std::vector<Candidate> candidates(const KernelQuery& query, const std::string& asked,
                                            WhyNot& why_not) const = 0;
  // Whether a candidate of finite seconds is faster than those of all other families, which need not be asked then.
  virtual bool leads() const { return false; }
  // Loads what it launches of a dtype without a test before, onto the current device: no launch that a CUDA graph may
  // capture has to. Whether all of it is there now; where it is not, the launch will say why.
  virtual bool load(at::ScalarType) const { return true; }
  // What use_cuda_kernels is told where none can serve.
  virtual std::string refusal(const KernelQuery& query, const WhyNot& why_not) const;
  // Throws if an earlier call on the current device went wrong after it had returned.
  virtual void check_earlier_calls() const {}

  // Whether use_cuda_kernels allows this kernel of the family: "auto", the family's name or the kernel's.
  bool is_asked_for(const Kernel& kernel, const std::string& asked) const {
    return asked == "auto" || asked == name() || asked == kernel.name();
  }
};

// Each, defined in its folder, and all of them.
const Family& stepwise_family();
const Family& cluster_family();
const Family& group_family();
const Family& streamed_family();
const Family& one_step_family();
const std::vector<const Family*>& families();

// printf into a string.
std::string words(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace gru_ext
