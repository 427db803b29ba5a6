#include "race.h"

#include <algorithm>

namespace gru_ext::emulator {

namespace {

void join(Clock& sum, const Clock& other) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = std::max(sum[i], other[i]);
}

}  // namespace

void Gathering::add(const Moment& moment) {
  if (sum_.empty()) {
    sum_ = *moment.known;
  } else if (moment.known != last_) {
    join(sum_, *moment.known);
  }
  last_ = moment.known;
  sum_[moment.actor] = std::max(sum_[moment.actor], moment.epoch);
}

void Gathering::add(uint32_t actor, uint32_t epoch, size_t actors) {
  sum_.resize(actors);
  sum_[actor] = std::max(sum_[actor], epoch);
}

Clock Gathering::take() {
  last_ = nullptr;
  return std::exchange(sum_, Clock());
}

const Clock* Clocks::keep(Clock clock) {
  kept_.push_back(std::move(clock));
  return &kept_.back();
}

const Clock* Clocks::joined(const Clock* a, const Clock* b) {
  const Clock*& result = joined_[{a, b}];
  if (!result) {
    Clock sum = *a;
    join(sum, *b);
    result = keep(std::move(sum));
  }
  return result;
}

void AccessHistory::halve_cells() {
  cell_bytes_ /= 2;
  std::vector<Cell> halves(2 * cells_.size());
  for (size_t i = 0; i < halves.size(); ++i) {
    Cell& half = halves[i] = cells_[i / 2];
    if (i % 2 == 0 || half.more == 0) continue;
    more_reads_.push_back(std::vector<Access>(more_reads_[half.more]));
    half.more = static_cast<uint32_t>(more_reads_.size() - 1);
  }
  cells_ = std::move(halves);
}

AccessHistory::Report AccessHistory::read(size_t begin, size_t bytes, const Access& access, const Moment& moment) {
  while (cell_bytes_ > kLeastBytes && (begin | bytes) % cell_bytes_ != 0) halve_cells();
  for (size_t i = begin / cell_bytes_; i * cell_bytes_ < begin + bytes; ++i) {
    Cell& cell = cells_[i];
    if (cell.write.actor == kNobody) return {Finding::never_written, i * cell_bytes_, {}};
    if (!cell.write.is_known_at(moment)) return {Finding::race_with_write, i * cell_bytes_, cell.write};
    if (!cell.read.is_known_at(moment)) {
      if (cell.more == 0) {
        cell.more = static_cast<uint32_t>(more_reads_.size());
        more_reads_.emplace_back();
      }
      auto& more = more_reads_[cell.more];
      more.erase(std::remove_if(more.begin(), more.end(), [&](const Access& a) { return a.is_known_at(moment); }),
                 more.end());
      more.push_back(cell.read);
    }
    cell.read = access;
  }
  return {};
}

AccessHistory::Report AccessHistory::write(size_t begin, size_t bytes, const Access& access, const Moment& moment) {
  while (cell_bytes_ > kLeastBytes && (begin | bytes) % cell_bytes_ != 0) halve_cells();
  for (size_t i = begin / cell_bytes_; i * cell_bytes_ < begin + bytes; ++i) {
    Cell& cell = cells_[i];
    if (!cell.write.is_known_at(moment)) return {Finding::race_with_write, i * cell_bytes_, cell.write};
    if (!cell.read.is_known_at(moment)) return {Finding::race_with_read, i * cell_bytes_, cell.read};
    for (const Access& other : more_reads_[cell.more]) {
      if (!other.is_known_at(moment)) return {Finding::race_with_read, i * cell_bytes_, other};
    }
    cell.write = access;
    cell.read = Access();
    if (cell.more != 0) more_reads_[cell.more].clear();
  }
  return {};
}

}  // namespace gru_ext::emulator
