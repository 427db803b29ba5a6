// A family of persistent kernels: what is common to the choice of any of them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/persistent/kernel.h"

namespace gru_ext {

class PersistentFamily : public Family {
 public:
  explicit PersistentFamily(const char* name) : name_(name) {}

  const char* name() const override { return name_; }
  std::vector<const Kernel*> kernels(Pass pass, at::ScalarType dtype) const override;
  std::vector<Candidate> candidates(const KernelQuery& query, const std::string& asked, WhyNot& why_not) const override;
  void check_earlier_calls() const override;

 protected:
  // Adds a FamilyKernel for each entry.
  template <typename FamilyKernel, typename Entries>
  void add_kernels(Pass pass, at::ScalarType dtype, const Entries& entries) {
    for (const auto& entry : entries) {
      kernels_[{pass, dtype}].push_back(std::make_unique<FamilyKernel>(*this, pass, entry));
    }
  }

 private:
  using Kernels = std::vector<std::unique_ptr<PersistentKernel>>;

  const Kernels& of(Pass pass, at::ScalarType dtype) const;

  const char* const name_;
  std::map<std::pair<Pass, at::ScalarType>, Kernels> kernels_;
};

}  // namespace gru_ext
